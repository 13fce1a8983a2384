"""The hazard checker beside the CPU device, whose streams are real threads."""

from collections.abc import Iterator

import pytest

from benchmarks.hazard_programs import Program
from streams.device import Device, open_device
from tests.hazards.real_devices import (
    RACY,
    check_cure_is_clean,
    check_engine_is_clean,
    check_pipeline_with_barrier_is_clean,
    check_race_is_reported,
)

RUNS = range(20)


@pytest.fixture
def device() -> Iterator[Device]:
    """A CPU device."""
    with open_device("cpu") as device:
        yield device


async def test_engine_is_clean(device: Device) -> None:
    """Also with requests that are aborted."""
    await check_engine_is_clean(device)


async def test_pipeline_with_its_barrier_is_clean(device: Device) -> None:
    """The barrier is all that the table needs."""
    await check_pipeline_with_barrier_is_clean(device)


@pytest.mark.parametrize("program", RACY, ids=lambda program: program.name)
async def test_race_is_reported_in_every_run(program: Program) -> None:
    """20 of 20 runs, whatever the threads did."""
    for _ in RUNS:
        with open_device("cpu") as device:
            await check_race_is_reported(device, program)


@pytest.mark.parametrize("program", RACY, ids=lambda program: program.name)
async def test_cure_is_clean_in_every_run(program: Program) -> None:
    """And no run of the fenced twin is reported."""
    for _ in RUNS:
        with open_device("cpu") as device:
            await check_cure_is_clean(device, program)
