"""The hazard checker beside a real device; ``tests/hazards`` has the same for the CPU device."""

import pytest

from benchmarks.hazard_programs import Program
from streams.device import Device
from tests.device_fixtures import Bench
from tests.hazards.real_devices import (
    RACY,
    check_cure_is_clean,
    check_engine_is_clean,
    check_pipeline_with_barrier_is_clean,
    check_race_is_reported,
)

pytestmark = pytest.mark.gpu


async def test_engine_is_clean(device: Device) -> None:
    """Also with requests that are aborted."""
    await check_engine_is_clean(device)


async def test_pipeline_with_its_barrier_is_clean(device: Device) -> None:
    """The barrier is all that the table needs."""
    await check_pipeline_with_barrier_is_clean(device)


@pytest.mark.parametrize("program", RACY, ids=lambda program: program.name)
async def test_race_is_reported_in_every_run(bench: Bench, program: Program) -> None:
    """20 of 20 runs, whether or not the kernels met."""
    for _ in range(20):
        with bench.open() as device:
            await check_race_is_reported(device, program)


@pytest.mark.parametrize("program", RACY, ids=lambda program: program.name)
async def test_cure_is_clean_in_every_run(bench: Bench, program: Program) -> None:
    """And no run of the fenced twin is reported."""
    for _ in range(20):
        with bench.open() as device:
            await check_cure_is_clean(device, program)
