"""A strict scheduler brings its own hazard checker, and raises what it has found at the end."""

import logging

import pytest

from aio_sched.loop import OverlapScheduler, SequentialScheduler
from streams.device import open_device
from streams.hazards import HazardError
from tests.aio_sched.testing.scenes import Table


async def _run(kind: type[OverlapScheduler | SequentialScheduler], **options: object) -> None:
    with open_device("sim", profile="friendly") as device:
        pipeline = Table(device)
        async with kind(pipeline, device, **options) as scheduler:  # type: ignore[arg-type]  # any of them
            await pipeline.is_done.wait()
            assert (scheduler.hazards is not None) == bool(options.get("strict"))
        assert device.monitors == ()


async def test_strict_scheduler_raises_the_hazards_that_it_saw(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are logged as they come, and the end of the block raises them all."""
    with (
        caplog.at_level(logging.ERROR, "aio_sched"),
        pytest.raises(HazardError, match="WAR on tensor"),
    ):
        await _run(OverlapScheduler, strict=True, war_barrier="off")
    assert sum("event='hazard'" in message for message in caplog.messages) == 1


async def test_strict_scheduler_is_quiet_where_all_is_in_order() -> None:
    """With its barrier, and without any overlap."""
    await _run(OverlapScheduler, strict=True)
    await _run(SequentialScheduler, strict=True, war_barrier="off")


async def test_scheduler_that_is_not_strict_checks_nothing() -> None:
    """Watching costs; whoever does not ask for it does not pay."""
    await _run(OverlapScheduler, war_barrier="off")


async def test_error_of_the_block_comes_before_hazards() -> None:
    """What the user's own code raised is not replaced."""
    with open_device("sim", profile="friendly") as device:
        pipeline = Table(device)
        with pytest.raises(ZeroDivisionError):
            async with OverlapScheduler(pipeline, device, strict=True, war_barrier="off"):
                await pipeline.is_done.wait()
                raise ZeroDivisionError("in the block")
