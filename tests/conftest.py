"""Every async test runs on asyncio and on uvloop, and no test leaves anything behind.

A test that cares for one loop only says ``@pytest.mark.asyncio(loop_factories=["uvloop"])``.
All async tests and fixtures share the loop of their test function.
"""

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if sys.platform != "win32":
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Name the event loops that each async test is run on."""
    return LOOPS


def pytest_collection_finish() -> None:
    """Compute on one thread; leave what is imported out of collections that end async tests.

    Collecting all of torch takes a tenth of a second; what one test made, a millisecond.
    """
    gc.collect()
    gc.freeze()
    if "torch" in sys.modules:
        # For so little, threads would only wait for each other; and the last bits of an
        # operation may depend on how many share it.
        sys.modules["torch"].set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs an accelerator where there is none."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.accelerator.is_available():
        pytest.skip("needs an accelerator that torch can use")


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """Fail a test after which a thread that it started would keep the process alive."""
    before = set(threading.enumerate())
    yield
    started = [t for t in threading.enumerate() if t not in before and not t.daemon]
    for thread in started:
        thread.join(timeout=0.5)  # one that was told to end may be about to
    if left := [thread.name for thread in started if thread.is_alive()]:
        pytest.fail(f"the test left threads running: {', '.join(left)}")


@pytest.fixture(autouse=True)
def loop_left_clean(request: pytest.FixtureRequest, no_threads_left: None) -> None:
    """Apply ``loop_reports`` to every async test.

    Asks for ``no_threads_left`` so that the loop and its executor are closed before threads are
    counted.
    """
    if pytest_asyncio.is_async_test(request.node):
        request.getfixturevalue("loop_reports")


@pytest.fixture
async def loop_reports() -> AsyncIterator[list[dict[str, Any]]]:
    """What the loop's exception handler was told, for tests that expect it (and clear the list).

    Fails a test that leaves a report here, an exception that nobody retrieved, or a running task.
    """
    reports: list[dict[str, Any]] = []

    def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        reports.append(context)
        # uvloop hands on what a signal handler raises as if it were a callback's mishap: end the
        # test that pytest-timeout means to fail. On asyncio the exception does that by itself.
        if isinstance(context.get("exception"), pytest.fail.Exception):
            loop.stop()

    asyncio.get_running_loop().set_exception_handler(report)
    yield reports
    # Tasks that were ready to end have had their turn: this code runs in a task that came after.
    left = asyncio.all_tasks() - {asyncio.current_task()}
    gc.collect()  # a failed task reports, when it dies, that nobody asked for its exception
    complaints = [f"the event loop was told of: {context!r}" for context in reports]
    complaints += [f"the test left a task running: {task!r}" for task in left]
    if complaints:
        pytest.fail("\n".join(complaints))
