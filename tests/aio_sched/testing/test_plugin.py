"""The pytest plugin, and the virtual loop under pytest-asyncio and anyio's own plugin."""

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

_VIRTUAL_ASYNCIO = """
from aio_sched.testing import VirtualLoop

def pytest_asyncio_loop_factories():
    return {"virtual": VirtualLoop}
"""

_SETTINGS = """[pytest]
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


@pytest.fixture
def bare(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project that knows nothing of this one but that it is installed."""
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeini(_SETTINGS + "asyncio_mode = auto\n")
    return pytester


def test_fixture_gives_a_fresh_loop_and_closes_it(bare: pytest.Pytester) -> None:
    """Each test has a loop of its own, whose tasks are cancelled in the end."""
    bare.makepyfile("""
        import asyncio

        seen = []

        def test_first(virtual_loop):
            async def left():
                try:
                    await asyncio.sleep(9)
                finally:
                    seen.append("cancelled")
            task = virtual_loop.create_task(left())
            virtual_loop.run_until_complete(asyncio.sleep(5))
            assert virtual_loop.time() == 5
            seen.extend([virtual_loop, task])

        def test_second(virtual_loop):
            loop, task, end = seen
            assert virtual_loop is not loop
            assert virtual_loop.time() == 0
            assert loop.is_closed() and end == "cancelled" and task.cancelled()
        """)
    bare.runpytest_subprocess("-p", "no:randomly").assert_outcomes(passed=2)


def test_seed_comes_from_the_command_line(bare: pytest.Pytester) -> None:
    """So a failure that was found with a seed can be repeated."""
    bare.makepyfile("def test_it(virtual_loop): assert virtual_loop.seed == 41")
    bare.runpytest_subprocess("--aio-sched-seed", "41").assert_outcomes(passed=1)
    bare.runpytest_subprocess().assert_outcomes(failed=1)


_RACE = """
import torch

def race(device):
    relay = torch.zeros(4)
    forward, schedule = device.stream("forward"), device.stream("schedule")
    forward.launch(torch.sum, relay, reads=[relay])
    schedule.launch(relay.fill_, 1.0, writes=[relay])
    device.synchronize()

def ordered(device):
    relay = torch.zeros(4)
    forward, schedule = device.stream("forward"), device.stream("schedule")
    forward.launch(torch.sum, relay, reads=[relay])
    schedule.wait_event(forward.record("read"))
    schedule.launch(relay.fill_, 1.0, writes=[relay])
    device.synchronize()
"""


def test_hazard_checker_fails_the_test_that_races(bare: pytest.Pytester) -> None:
    """A race on the simulated device is an error, under the seed that shows it."""
    bare.makepyfile(
        _RACE
        + """
def test_ordered(sim_device, hazard_checker):
    ordered(sim_device)

def test_racy(sim_device, hazard_checker):
    race(sim_device)

def test_expected(sim_device, hazard_checker):
    race(sim_device)
    assert [report.kind for report in hazard_checker.reports] == ["WAR"]
    hazard_checker.reports.clear()

def test_unwatched(sim_device):
    race(sim_device)

def test_in_virtual_time(sim_device, hazard_checker, virtual_loop):
    async def main():
        stream = sim_device.stream("s")
        stream.launch(lambda: None)
        await stream.record("done")
        return virtual_loop.time()
    assert virtual_loop.run_until_complete(main()) > 0
"""
    )
    result = bare.runpytest_subprocess("--aio-sched-seed", "41")
    result.assert_outcomes(passed=5, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_racy*", "*WAR on tensor*--seed 41"])


def test_marker_says_how_the_fixtures_are_made(bare: pytest.Pytester) -> None:
    """Option by option, the closest marker first, and the command line for the rest.

    A strict checker sees what only luck orders: one task that writes, one that sleeps and reads.
    """
    bare.makepyfile("""
        import asyncio
        import pytest
        import torch
        from streams import host_reads, host_writes
        from streams.simulated import Fault, InjectedFaultError

        pytestmark = pytest.mark.aio_sched(profile="slow_copy")

        def test_module(sim_device):
            assert (sim_device.seed, sim_device.profile.name) == (41, "slow_copy")

        @pytest.mark.aio_sched(seed=7)
        def test_closest(sim_device, virtual_loop):
            assert (sim_device.seed, virtual_loop.seed) == (7, 7)
            assert sim_device.profile.name == "slow_copy"

        @pytest.mark.aio_sched(faults=[Fault("launch_raises")])
        def test_faults(sim_device, virtual_loop):
            async def main():
                with pytest.raises(InjectedFaultError):
                    await sim_device.stream("s").launch(lambda: None)
            virtual_loop.run_until_complete(main())

        async def by_luck(device):
            table = torch.zeros(4)
            async def write():
                host_writes(device, table)
            async def read():
                await asyncio.sleep(1.0)
                host_reads(device, table)
            await asyncio.gather(read(), write())

        @pytest.mark.aio_sched(strict=True)
        def test_strict(sim_device, hazard_checker, virtual_loop):
            virtual_loop.run_until_complete(by_luck(sim_device))

        def test_default(sim_device, hazard_checker, virtual_loop):
            virtual_loop.run_until_complete(by_luck(sim_device))

        @pytest.mark.aio_sched(profiles="slow_copy")
        def test_unknown(sim_device):
            pass
        """)
    bare.makeini(_SETTINGS + "addopts = --strict-markers\n")
    result = bare.runpytest_subprocess("--aio-sched-seed", "41")
    result.assert_outcomes(passed=5, errors=2)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_strict*", "*RAW on tensor*"])
    result.stdout.fnmatch_lines(["*marker aio_sched of test_unknown has*give seed=, profile=*"])


def test_hazard_checker_that_saw_nothing_fails_the_test(bare: pytest.Pytester) -> None:
    """Or a pipeline on a device of its own would pass; only a test that passed is asked."""
    bare.makepyfile(
        _RACE
        + """
import pytest
from streams import open_device

def test_elsewhere(hazard_checker):
    with open_device("sim") as device:
        race(device)

def test_watched(hazard_checker):
    with open_device("sim") as device, hazard_checker.watch(device):
        ordered(device)

def test_without_declared_memory(sim_device, hazard_checker):
    sim_device.stream("s").launch(lambda: None)
    sim_device.synchronize()

@pytest.mark.aio_sched(may_be_idle=True)
def test_idle(hazard_checker):
    pass

def test_skipped(hazard_checker):
    pytest.skip("no work")

def test_failed(hazard_checker):
    raise ValueError
"""
    )
    result = bare.runpytest_subprocess()
    result.assert_outcomes(passed=4, failed=1, skipped=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_elsewhere*", "hazard_checker saw no launch*may_be_idle=True*"]
    )


def test_faults_that_are_none_are_refused(bare: pytest.Pytester) -> None:
    """What a marker gives is said, and what to give instead."""
    bare.makepyfile("""
        import pytest

        @pytest.mark.aio_sched(faults=["launch_raises"])
        def test_name(sim_device):
            sim_device.stream("s").launch(int)
        """)
    result = bare.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*faults=*'launch_raises'*: give a list of Fault*"])


def test_plugin_imports_nothing_heavy() -> None:
    """Every pytest of the environment imports it, also where nobody asks for a loop."""
    code = "import sys, aio_sched_pytest; print({'torch', 'aio_sched', 'streams'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "set()\n"


def test_pytest_asyncio_runs_tests_in_virtual_time(bare: pytest.Pytester) -> None:
    """As a loop factory: fixtures, sleeps, timeouts and a deadlock that fails one test only."""
    bare.makeconftest(_VIRTUAL_ASYNCIO)
    bare.makepyfile("""
        import asyncio
        import pytest
        import pytest_asyncio

        @pytest_asyncio.fixture
        async def warm():
            await asyncio.sleep(100)
            yield asyncio.get_running_loop().time()
            await asyncio.sleep(100)

        async def test_time(warm):
            await asyncio.sleep(900)
            assert (warm, asyncio.get_running_loop().time()) == (100, 1000)

        async def test_timeout():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await asyncio.Event().wait()

        async def test_deadlock(warm):
            await asyncio.Event().wait()

        async def test_other(warm):
            assert warm == 100
        """)
    result = bare.runpytest_subprocess()
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*DeadlockError: nothing can ever run again at 100.0*"])


def test_anyio_plugin_runs_tests_in_virtual_time(bare: pytest.Pytester) -> None:
    """As a loop factory in the backend's options."""
    bare.makeini(_SETTINGS)  # pytest-asyncio is installed, and in its strict mode leaves these be
    bare.makepyfile("""
        import anyio
        import pytest
        from aio_sched.testing import VirtualLoop

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"loop_factory": VirtualLoop}

        async def test_time():
            await anyio.sleep(1000)
            assert anyio.current_time() >= 1000
        """)
    bare.runpytest_subprocess().assert_outcomes(passed=1)
