"""Cause and effect in the loop: what the poster knows reaches the runner."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from aio_sched.testing import virtual_run


class _Knowledge:
    """What each task knows: facts that it learned itself, or had from who woke it.

    The least that an observer of causes does: a set per task, joined at each hand-over.
    """

    def __init__(self) -> None:
        self.of: dict[str, set[str]] = {}
        self.at_end: dict[str, set[str]] = {}
        self._stack: list[set[str]] = [set()]
        self.depth = 0

    @property
    def current(self) -> set[str]:
        task = asyncio.current_task() if self.depth else None
        return self._stack[-1] if task is None else self.of.setdefault(task.get_name(), set())

    def posted(self, callback: Callable[..., object]) -> object:
        return set(self.current)

    def running(self, token: object) -> None:
        assert isinstance(token, set)
        self.depth += 1
        self._stack.append(set(token))
        self._pending = token

    def ran(self) -> None:
        self.depth -= 1
        self._stack.pop()

    def joined(self, task: asyncio.Task[Any]) -> None:
        self.current.update(self.of.get(task.get_name(), ()))

    def learn(self, fact: str) -> None:
        self._inherit()
        self.current.add(fact)

    def knows(self, fact: str) -> bool:
        self._inherit()
        return fact in self.current

    def _inherit(self) -> None:
        """A task takes over, at its first word of a step, what its step was posted with."""
        self.current.update(self._pending)


def _run(main: Callable[[_Knowledge], Coroutine[Any, Any, None]], seed: int = 0) -> _Knowledge:
    knowledge = _Knowledge()
    virtual_run(main(knowledge), seed=seed, observers=[knowledge])
    assert knowledge.depth == 0
    return knowledge


@pytest.fixture(params=range(5))
def seed(request: pytest.FixtureRequest) -> int:
    """Orders in which the tasks run."""
    seed: int = request.param
    return seed


def test_new_task_knows_what_its_maker_knew(seed: int) -> None:
    """The first step of a task is posted by who makes the task."""

    async def main(knowledge: _Knowledge) -> None:
        async def child() -> None:
            assert knowledge.knows("before")
            assert not knowledge.knows("after")

        knowledge.learn("before")
        task = asyncio.create_task(child())
        knowledge.learn("after")
        await task

    _run(main, seed)


def test_future_hands_over(seed: int) -> None:
    """Who awaits a future knows what was known when it was set, and nobody else does."""

    async def main(knowledge: _Knowledge) -> None:
        future = asyncio.get_running_loop().create_future()

        async def waiter() -> None:
            await future
            assert knowledge.knows("set")
            assert not knowledge.knows("later")

        async def setter() -> None:
            await asyncio.sleep(1)
            knowledge.learn("set")
            future.set_result(None)
            knowledge.learn("later")

        async def bystander() -> None:
            await asyncio.sleep(2)
            assert not knowledge.knows("set")

        await asyncio.gather(waiter(), setter(), bystander())

    _run(main, seed)


def test_queue_hands_over_to_who_waits(seed: int) -> None:
    """A reader that was waiting is woken by the writer."""

    async def main(knowledge: _Knowledge) -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()

        async def reader() -> None:
            await queue.get()
            assert knowledge.knows("put")

        task = asyncio.create_task(reader())
        await asyncio.sleep(1)
        knowledge.learn("put")
        queue.put_nowait(1)
        await task

    _run(main, seed)


def test_timer_knows_what_was_known_when_it_was_set(seed: int) -> None:
    """A call for later is posted now."""

    async def main(knowledge: _Knowledge) -> None:
        seen: list[bool] = []
        knowledge.learn("before")
        loop = asyncio.get_running_loop()
        loop.call_later(1, lambda: seen.append("before" in knowledge.current))
        loop.call_soon_threadsafe(lambda: seen.append("before" in knowledge.current))
        loop.call_later(1, lambda: seen.append("after" in knowledge.current))
        knowledge.learn("after")
        await asyncio.sleep(2)
        assert seen == [True, True, False]

    _run(main, seed)


async def _await(task: asyncio.Task[None]) -> None:
    await task


async def _take_result(task: asyncio.Task[None]) -> None:
    task.result()


async def _ask(task: asyncio.Task[None]) -> None:
    assert task.done()


async def _wait(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])


async def _gather(task: asyncio.Task[None]) -> None:
    await asyncio.gather(task)


@pytest.mark.parametrize("join", [_await, _take_result, _ask, _wait, _gather])
def test_joiner_of_a_finished_task_knows_what_it_did(
    join: Callable[[asyncio.Task[None]], Coroutine[Any, Any, None]], seed: int
) -> None:
    """Nothing is posted when a finished task is joined, and the joiner learns it yet."""

    async def main(knowledge: _Knowledge) -> None:
        async def worker() -> None:
            knowledge.learn("work")

        task = asyncio.create_task(worker())
        await asyncio.sleep(1)
        assert not knowledge.knows("work")
        await join(task)
        assert knowledge.knows("work")

    _run(main, seed)


@pytest.mark.parametrize("make_group", [asyncio.TaskGroup, anyio.create_task_group])
@pytest.mark.parametrize("wait_s", [0, 10])
def test_who_leaves_a_task_group_knows_what_its_tasks_did(
    make_group: Callable[[], Any], wait_s: int, seed: int
) -> None:
    """Whether all have ended before, or the last one wakes the owner of the group."""

    async def main(knowledge: _Knowledge) -> None:
        async def worker(number: int) -> None:
            await asyncio.sleep(number)
            knowledge.learn(f"work {number}")

        async with make_group() as group:
            for number in range(4):
                if isinstance(group, asyncio.TaskGroup):
                    group.create_task(worker(number))
                else:
                    group.start_soon(worker, number)
            await asyncio.sleep(wait_s)
            assert not knowledge.knows("work 0")
        assert all(knowledge.knows(f"work {number}") for number in range(4))

    _run(main, seed)


def test_callback_that_raises_has_ended_too() -> None:
    """What the loop reports and survives does not unbalance the observer."""

    async def main(knowledge: _Knowledge) -> None:
        loop = asyncio.get_running_loop()
        reports: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: reports.append(context))
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [type(report["exception"]) for report in reports] == [ZeroDivisionError]

    _run(main)
