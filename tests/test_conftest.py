"""The checks that every test is under, shown to fail when they should."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent
BOTH_LOOPS = ("asyncio", "uvloop")

Run = Callable[[str], pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a test module in a process of its own, under this project's conftest and settings."""
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeconftest((HERE / "conftest.py").read_text())
    pytester.makefile(".toml", pyproject=(HERE.parent / "pyproject.toml").read_text())

    def run(source: str) -> pytest.RunResult:
        pytester.makepyfile(test_it="import asyncio, threading\nimport pytest\n" + source)
        return pytester.runpytest_subprocess("-rA", "test_it.py")

    return run


def outcomes(result: pytest.RunResult) -> set[str]:
    """Return what became of each test, such as ``PASSED test_it[uvloop]``."""
    return {
        f"{word} {name.removeprefix('test_it.py::')}"
        for word, name, *_ in (line.split() for line in result.outlines if "test_it.py::" in line)
        if word in {"PASSED", "FAILED", "ERROR", "SKIPPED"}
    }


def test_async_tests_run_on_both_loops(run: Run) -> None:
    """An async test runs once per loop, with hypothesis too; a sync test runs once."""
    result = run("""
from hypothesis import given, settings, strategies as st

async def test_async():
    print("loop:", type(asyncio.get_running_loop()).__module__)

@given(st.integers())
@settings(max_examples=5)
async def test_property(n):
    await asyncio.sleep(0)

@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_chosen():
    assert type(asyncio.get_running_loop()).__module__ == "uvloop"

def test_sync():
    pass
""")
    assert outcomes(result) == {
        *(f"PASSED test_async[{loop}]" for loop in BOTH_LOOPS),
        *(f"PASSED test_property[{loop}]" for loop in BOTH_LOOPS),
        "PASSED test_chosen",
        "PASSED test_sync",
    }
    result.stdout.fnmatch_lines(["loop: asyncio.*", "loop: uvloop"])


def test_running_task_fails_the_test(run: Run) -> None:
    """A task that still waits when its test ends is an error, under its name."""
    result = run("""
async def test_it():
    global task
    task = asyncio.create_task(asyncio.Event().wait(), name="forgotten")
""")
    assert outcomes(result) >= {f"ERROR test_it[{loop}]" for loop in BOTH_LOOPS}
    result.stdout.fnmatch_lines(["*left a task running: *name='forgotten'*"])


def test_failed_task_that_nobody_awaits_fails_the_test(run: Run) -> None:
    """An exception is reported even while a reference cycle keeps its task."""
    result = run("""
async def test_dropped():
    async def fail():
        raise ValueError("unseen")
    asyncio.create_task(fail())
    await asyncio.sleep(0)

async def test_cycle():
    async def fail():
        me = asyncio.current_task()
        raise ValueError("unseen")
    asyncio.create_task(fail())
    await asyncio.sleep(0)
""")
    for name in ("test_dropped", "test_cycle"):
        assert outcomes(result) >= {f"ERROR {name}[{loop}]" for loop in BOTH_LOOPS}
    result.stdout.fnmatch_lines(["*told of: *never retrieved*ValueError('unseen')*"])


def test_report_to_the_loop_fails_the_test(run: Run) -> None:
    """What a callback raises is an error, unless the test looked at it and cleared it."""
    result = run("""
async def test_reported():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)

async def test_expected(loop_reports):
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)
    assert [type(r["exception"]) for r in loop_reports] == [ZeroDivisionError]
    loop_reports.clear()
""")
    assert {line for line in outcomes(result) if line.startswith("ERROR")} == {
        f"ERROR test_reported[{loop}]" for loop in BOTH_LOOPS
    }


def test_thread_left_running_fails_the_test(run: Run) -> None:
    """A thread that would keep the process alive is an error, under its name."""
    result = run("""
@pytest.fixture(scope="module")
def ended():
    ended = threading.Event()
    yield ended
    ended.set()

def test_sync(ended):
    threading.Thread(target=ended.wait, name="worker-7").start()

async def test_async(ended):
    threading.Thread(target=ended.wait, name="worker-8").start()
""")
    errors = {line for line in outcomes(result) if line.startswith("ERROR")}
    assert errors == {"ERROR test_sync", *(f"ERROR test_async[{loop}]" for loop in BOTH_LOOPS)}
    result.stdout.fnmatch_lines(
        ["*left threads running: worker-7", "*left threads running: worker-8"]
    )


def test_orderly_end_passes(run: Run) -> None:
    """Tasks of fixtures, cancelled tasks, the executor and daemon threads are no leaks."""
    result = run("""
@pytest.fixture
async def service():
    task = asyncio.create_task(asyncio.Event().wait())
    yield task
    task.cancel()

async def test_fixture_ends_its_task(service):
    await asyncio.sleep(0)

async def test_executor_thread():
    await asyncio.to_thread(lambda: None)

def test_daemon_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()

def test_thread_that_was_told_to_end():
    told = threading.Event()
    threading.Thread(target=told.wait).start()
    told.set()
""")
    assert not [line for line in outcomes(result) if not line.startswith("PASSED")]
    result.assert_outcomes(passed=6)


def test_hung_test_ends_and_the_others_run(run: Run) -> None:
    """A test that waits for ever fails in time, on both loops, without ending the run."""
    result = run("""
@pytest.mark.timeout(0.5)
async def test_hung():
    await asyncio.Event().wait()

async def test_other():
    pass
""")
    assert outcomes(result) >= {
        *(f"FAILED test_hung[{loop}]" for loop in BOTH_LOOPS),
        *(f"PASSED test_other[{loop}]" for loop in BOTH_LOOPS),
    }


def test_marked_tests_wait_to_be_asked_for(run: Run) -> None:
    """Slow and soak tests are deselected, and a mistyped marker is an error."""
    result = run("""
@pytest.mark.slow
def test_slow(): ...

@pytest.mark.soak
def test_soak(): ...
""")
    result.assert_outcomes(deselected=2)
    assert run("@pytest.mark.sloww\ndef test_it(): ...\n").ret != 0
