"""What can never end is found at once, and the report says who waits where for what."""

import asyncio
import contextlib
import math
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from aio_sched.testing import DeadlockError, FifoOrder, LivelockError, VirtualLoop, virtual_run


def _report(main: Coroutine[Any, Any, object], **options: Any) -> str:
    with pytest.raises(DeadlockError) as caught:
        virtual_run(main, **options)
    return str(caught.value)


def _line(report: str, name: str) -> str:
    return next(line for line in report.splitlines() if f"'{name}' at" in line)


def test_two_tasks_on_each_others_futures_are_both_named() -> None:
    """Each waits for what the other would do afterwards."""

    async def main() -> None:
        first, second = (asyncio.get_running_loop().create_future() for _ in range(2))

        async def alice() -> None:
            await first
            second.set_result(None)

        async def bob() -> None:
            await second
            first.set_result(None)

        async with asyncio.TaskGroup() as group:
            group.create_task(alice(), name="alice")
            group.create_task(bob(), name="bob")

    report = _report(main(), seed=41)
    assert "seed 41" in report
    assert "test_deadlock.py:" in _line(report, "alice")
    assert "alice waits for <Future pending" in _line(report, "alice")
    assert "bob waits for <Future pending" in _line(report, "bob")
    assert "TaskGroup.__aexit__" in _line(report, "Task-1")
    assert "with task 'alice', task 'bob'" in _line(report, "Task-1")


def test_report_names_locks_queues_and_tasks() -> None:
    """What is awaited is named by what it is, not as some future."""

    async def main() -> None:
        lock = asyncio.Lock()
        await lock.acquire()
        queue: asyncio.Queue[int] = asyncio.Queue()
        blocked = asyncio.create_task(lock.acquire(), name="blocked")
        reader = asyncio.create_task(queue.get(), name="reader")

        async def joiner() -> None:
            await blocked

        asleep = asyncio.create_task(asyncio.sleep(math.inf), name="asleep")
        await asyncio.gather(reader, asleep, asyncio.create_task(joiner(), name="joiner"))

    report = _report(main())
    assert "Lock.acquire of <asyncio.locks.Lock" in _line(report, "blocked")
    assert "Queue.get of <Queue" in _line(report, "reader")
    assert "waits for sleep()" in _line(report, "asleep")
    assert "joiner waits for task 'blocked'" in _line(report, "joiner")
    assert "waits for all of task 'reader', task 'asleep', task 'joiner'" in _line(report, "Task-1")


def test_deadlock_is_told_at_its_own_time() -> None:
    """What could still happen happens first."""

    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(7))
        await asyncio.Event().wait()
        await task

    assert "at 7.000000000 s" in _report(main())


def test_wakeup_that_is_lost_is_found() -> None:
    """A notification between the check and the wait never reaches the waiter."""

    async def main() -> None:
        ready = asyncio.Condition()
        items: list[int] = []

        async def consumer() -> None:
            if not items:
                await asyncio.sleep(0)  # the gap
                async with ready:
                    await ready.wait()

        async def producer() -> None:
            async with ready:
                items.append(1)
                ready.notify_all()

        await asyncio.gather(consumer(), producer())

    assert "Condition.wait of" in _report(main(), strategy=FifoOrder())


def test_tasks_may_clean_up_after_a_deadlock() -> None:
    """The runner cancels what hangs, and what that takes still runs, sleeps included."""
    ended: list[str] = []

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            ended.append("main")

    _report(main())
    assert ended == ["main"]


def test_cleanup_that_hangs_ends_too() -> None:
    """A task that waits on while it is cancelled is cancelled again; the error notes it."""

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.Queue[int]().get()

    with pytest.raises(DeadlockError, match=r"Event\.wait") as caught:
        virtual_run(main())
    (note,) = caught.value.__notes__
    assert "Queue.get" in note


def test_task_that_can_not_be_cancelled_is_given_up() -> None:
    """One that swallows every cancellation cannot keep the loop from ending."""
    stop = False

    async def main() -> None:
        while not stop:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()

    loop = VirtualLoop()
    task = loop.create_task(main())
    for _ in range(2):
        with pytest.raises(DeadlockError):
            loop.run_until_complete(task)
        task.cancel()
    stop = True
    loop.run_until_complete(task)
    loop.close()


def test_threads_are_named_that_nobody_waits_for() -> None:
    """What a thread would bring about does not exist in virtual time; the report says so."""
    let_go = threading.Event()
    thread = threading.Thread(target=let_go.wait, name="worker-9")
    thread.start()

    async def main() -> None:
        await asyncio.Event().wait()

    try:
        assert "worker-9" in _report(main())
    finally:
        let_go.set()
        thread.join()


def test_task_that_spins_is_a_livelock() -> None:
    """The turns are limited, and who made them is named."""

    async def main() -> None:
        is_done = False

        async def poller() -> None:
            while not is_done:  # noqa: ASYNC110 - the fault under test
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(poller(), name="poller")
            group.create_task(asyncio.sleep(1), name="sleeper")

    with pytest.raises(LivelockError, match=r"2000 turns.*seed 3") as caught:
        virtual_run(main(), seed=3, max_steps=2000)
    assert "ran most lately:\n  201 steps: 'poller' at" in str(caught.value)
    assert "test_deadlock.py:" in str(caught.value)


def test_callbacks_that_spin_are_a_livelock() -> None:
    """No task runs, and still the loop never rests."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            loop.call_soon(again)

        again()
        await asyncio.Event().wait()

    with pytest.raises(LivelockError, match="callbacks only"):
        virtual_run(main(), max_steps=1000)


def test_program_within_its_turns_is_no_livelock() -> None:
    """The limit is met exactly, not a turn early."""

    def num_turns(max_steps: int) -> int:
        loop = VirtualLoop(max_steps=max_steps)
        try:
            loop.run_until_complete(asyncio.sleep(1))
        finally:
            loop.close()
        return loop.num_turns

    needed = num_turns(1000)
    assert num_turns(needed) == needed
    with pytest.raises(LivelockError):
        num_turns(needed - 1)
