"""The hazard checker beside a device that runs by itself: bodies of tests, for any such device."""

from benchmarks.hazard_programs import PROGRAMS, Program, generate, serve_table
from streams.device import Device
from streams.hazards import HazardChecker

__all__ = [
    "RACY",
    "check_cure_is_clean",
    "check_engine_is_clean",
    "check_pipeline_with_barrier_is_clean",
    "check_race_is_reported",
]

RACY = [program for program in PROGRAMS if program.has_race]


async def check_engine_is_clean(device: Device) -> None:
    """Requests of which every second one is left early: no report, and much was looked at."""
    checker = HazardChecker()
    with checker.watch(device):
        assert await generate(device) > 0
    checker.raise_if_any()
    assert checker.num_accesses > 100


async def check_pipeline_with_barrier_is_clean(device: Device) -> None:
    """And with the barrier every answer is its own."""
    checker = HazardChecker()
    with checker.watch(device):
        assert await serve_table(device, is_fenced=True) == list(range(12))
    checker.raise_if_any()
    assert checker.num_accesses >= 2 * 12


async def check_race_is_reported(device: Device, program: Program) -> None:
    """One finding, of the same two accesses, whatever the device did first."""
    checker = HazardChecker()
    with checker.watch(device):
        await program.run(device, False)
    (report,) = checker.reports
    assert report.kind in ("RAW", "WAR", "WAW")
    assert report.missing


async def check_cure_is_clean(device: Device, program: Program) -> None:
    """The same program with its fence."""
    checker = HazardChecker()
    with checker.watch(device):
        await program.run(device, True)
    checker.raise_if_any()
    assert checker.num_accesses
