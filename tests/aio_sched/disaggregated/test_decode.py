"""The pipeline that takes rows in, without a link."""

import pytest

from aio_sched.disaggregated.decode import DecodePipeline
from aio_sched.engine.requests import FinishReason, SamplingParams
from aio_sched.loop import OverlapScheduler
from aio_sched.wakeup import Wakeup
from buffers.errors import StagingBusyError
from streams.device import open_device
from tests.aio_sched.disaggregated.fakes import handed, in_virtual_time
from tests.aio_sched.engine.tiny import rigged

_PARAMS = SamplingParams(max_tokens=12)


@pytest.mark.parametrize("uploads_per_step", [1, 2])
def test_burst_is_taken_in_step_by_step(uploads_per_step: int) -> None:
    """A step copies no more rows on the loop's thread than it may; nobody is refused."""

    async def main() -> None:
        with open_device("sim") as device:
            pipeline = DecodePipeline(rigged(), device, 6, uploads_per_step=uploads_per_step)
            arrived = [pipeline.arrive(handed(n, params=_PARAMS), Wakeup()) for n in range(8)]
            pending: list[int] = []
            prepare = pipeline.prepare

            async def counted(step: object) -> object:
                before = len(pipeline.waiting)
                inputs = await prepare(step)  # type: ignore[arg-type]  # a step
                pending.append(before - len(pipeline.waiting))
                return inputs

            setattr(pipeline, "prepare", counted)  # noqa: B010 - a spy
            async with OverlapScheduler(pipeline, device):
                await pipeline.is_empty.wait()
            assert max(pending) == uploads_per_step
            assert sum(pending) == 8
            assert {each.finish for each in arrived} <= {
                FinishReason.LENGTH,
                FinishReason.END_OF_TEXT,
            }
            assert len({bytes(each.output) for each in arrived}) == 1, "all have the same rows"

    in_virtual_time(main)


def test_step_without_room_to_stage_fails_its_requests_only() -> None:
    """Their slots are free again, and the next ones are taken in."""

    async def main() -> None:
        with open_device("sim") as device:
            pipeline = DecodePipeline(rigged(), device, 2)
            claimed = [pipeline._row_staging.take() for _ in range(pipeline._row_staging.num_free)]
            async with OverlapScheduler(pipeline, device):
                failed = pipeline.arrive(handed(0, params=_PARAMS), Wakeup())
                pipeline.wake()
                await pipeline.is_empty.wait()
                assert failed.finish is FinishReason.ERROR
                assert isinstance(failed.error, StagingBusyError)
                assert pipeline.num_free_slots == 2
                for block in claimed:
                    block.give_back()
                later = pipeline.arrive(handed(1, params=_PARAMS), Wakeup())
                pipeline.wake()
                await pipeline.is_empty.wait()
                assert later.error is None

    in_virtual_time(main)


def test_step_that_takes_nobody_in_is_refused() -> None:
    """With what would do."""
    with open_device("sim") as device, pytest.raises(ValueError, match="uploads_per_step=0"):
        DecodePipeline(rigged(), device, 2, uploads_per_step=0)
