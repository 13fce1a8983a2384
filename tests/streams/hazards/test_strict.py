"""Strict mode: a clock per task, and what passes order from one to another."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import torch

from aio_sched import OverlapScheduler, Pipeline, Step, open_device
from aio_sched.testing import virtual_run
from streams.hazards import HazardChecker, handoff
from tests.streams.hazards.lazy_device import LazyDevice

SEEDS = range(10)


def touch() -> None:
    """A launch whose accesses are what it declares."""


class Shared:
    """Host memory that tasks write and read, and the checker that is told."""

    def __init__(self, *, strict: bool = True) -> None:
        self.checker = HazardChecker(strict=strict)
        self.device = LazyDevice()
        self.device.add_monitor(self.checker)
        self.cell = torch.zeros(2)

    def write(self) -> None:
        self.checker.on_host_access(self.device, self.cell, is_write=True)

    def read(self) -> None:
        self.checker.on_host_access(self.device, self.cell, is_write=False)

    def run(self, main: Coroutine[Any, Any, None], seed: int) -> list[str]:
        """Run in virtual time; return the kinds of the reports."""
        observers = [self.checker.observer()] if self.checker.strict else []
        virtual_run(main, seed=seed, observers=observers)
        return [report.kind for report in self.checker.reports]


Passing = Callable[[Shared], Awaitable[None]]


async def by_create_task(shared: Shared) -> None:
    """A task comes after what its maker did before, the maker after what it awaits."""

    async def child() -> None:
        shared.read()
        await asyncio.sleep(1)
        shared.write()

    shared.write()
    await asyncio.create_task(child())
    shared.read()


async def by_event(shared: Shared) -> None:
    """Who is woken comes after who wakes."""
    ready = asyncio.Event()

    async def reader() -> None:
        await ready.wait()
        shared.read()

    waiting = asyncio.create_task(reader())
    await asyncio.sleep(1)
    shared.write()
    ready.set()
    await waiting


async def by_finished_task(shared: Shared) -> None:
    """To learn that a task has ended is to come after it."""
    writer = asyncio.create_task(asyncio.to_thread(shared.write))
    await asyncio.sleep(1)
    while not writer.done():  # noqa: ASYNC110  # that it asks is what is tested
        await asyncio.sleep(1)
    shared.read()


async def by_callbacks(shared: Shared) -> None:
    """Plain callbacks and timers come after who posted them."""
    loop, called = asyncio.get_running_loop(), asyncio.Event()

    def later() -> None:
        shared.read()
        called.set()

    def soon() -> None:
        shared.write()
        loop.call_later(1, later)

    shared.write()
    loop.call_soon(soon)
    await called.wait()
    shared.write()


async def by_handoff(shared: Shared) -> None:
    """A queue that is not empty wakes nobody; handoff says what it passes on."""
    queue: asyncio.Queue[torch.Tensor] = asyncio.Queue()

    async def give() -> None:
        shared.write()
        handoff(shared.cell)
        queue.put_nowait(shared.cell)

    async def take() -> None:
        await asyncio.sleep(5)
        handoff(queue.get_nowait())
        shared.read()

    await asyncio.gather(give(), take())


async def by_event_of_a_stream(shared: Shared) -> None:
    """A launch comes after the task that made it, and before whoever awaits its event."""
    stream = shared.device.stream("forward")

    async def issue() -> None:
        shared.write()
        launch = stream.launch(touch, reads=[shared.cell], writes=[shared.cell])
        launched.append(launch.event)

    async def publish() -> None:
        await asyncio.sleep(5)
        await launched[0]
        shared.read()

    launched: list[Any] = []
    await asyncio.gather(issue(), publish())


@pytest.mark.parametrize(
    "passing",
    [by_create_task, by_event, by_finished_task, by_callbacks, by_handoff, by_event_of_a_stream],
    ids=lambda passing: passing.__name__,
)
def test_order_passes(passing: Passing) -> None:
    """Each of these orders its accesses, in every order of the tasks."""
    for seed in SEEDS:
        shared = Shared()

        async def main(shared: Shared = shared) -> None:
            await passing(shared)

        assert shared.run(main(), seed) == []
        shared.write()  # the loop has stopped: what is outside comes after all of it
        shared.checker.raise_if_any()
        assert shared.checker.num_accesses >= 3


async def by_luck(shared: Shared) -> None:
    """Time alone puts the reader behind the writer."""

    async def writer() -> None:
        shared.write()

    async def reader() -> None:
        await asyncio.sleep(5)
        shared.read()

    await asyncio.gather(writer(), reader())


async def by_full_queue(shared: Shared) -> None:
    """A hand-over that wakes nobody."""
    queue: asyncio.Queue[None] = asyncio.Queue()

    async def give() -> None:
        shared.write()
        queue.put_nowait(None)

    async def take() -> None:
        await asyncio.sleep(5)
        queue.get_nowait()
        shared.read()

    await asyncio.gather(give(), take())


async def by_observation_of_another(shared: Shared) -> None:
    """One task knows that the launch is complete; the other one only hopes so."""
    stream = shared.device.stream("forward")

    async def issue() -> None:
        await stream.launch(touch, writes=[shared.cell])

    async def publish() -> None:
        await asyncio.sleep(5)
        shared.read()

    await asyncio.gather(issue(), publish())


@pytest.mark.parametrize(
    "luck", [by_luck, by_full_queue, by_observation_of_another], ids=lambda luck: luck.__name__
)
def test_order_by_luck_is_reported_in_strict_mode_only(luck: Passing) -> None:
    """One clock for the host cannot see it, a clock per task always does."""
    for seed in SEEDS:
        strict, default = Shared(), Shared(strict=False)

        async def main(shared: Shared) -> None:
            await luck(shared)

        assert strict.run(main(strict), seed) == ["RAW"]
        assert default.run(main(default), seed) == []


def test_report_names_the_tasks() -> None:
    """The actors of a report are the tasks, and the missing edge is one between them."""
    shared = Shared()

    async def main() -> None:
        writer = asyncio.create_task(asyncio.sleep(0), name="unused")

        async def write() -> None:
            shared.write()

        async def read() -> None:
            await asyncio.sleep(5)
            shared.read()

        await writer
        await asyncio.gather(
            asyncio.create_task(write(), name="writer"), asyncio.create_task(read(), name="reader")
        )

    shared.run(main(), 0)
    (report,) = shared.checker.reports
    assert report.missing.startswith("task 'writer' -> task 'reader'")


async def test_strict_checker_that_is_told_of_no_callbacks_refuses() -> None:
    """On a loop without observers every hand-over would look like a race."""
    shared = Shared()
    with pytest.raises(RuntimeError, match=r"loop\.add_observer\(checker\.observer\(\)\)"):
        shared.write()


def test_other_threads_are_actors_of_their_own() -> None:
    """What a thread does is in no order with the loop unless an event says so."""
    shared = Shared()

    async def main() -> None:
        shared.write()
        thread = threading.Thread(target=shared.read)
        thread.start()
        thread.join()

    assert shared.run(main(), 0) == ["RAW"]


def test_thread_does_not_inherit_the_clock_of_a_dead_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The system gives numbers of dead threads to new ones; what one did, the other did not."""
    monkeypatch.setattr(threading, "get_ident", lambda: 7)  # as if each got the number anew
    shared = Shared()
    for work in (shared.write, shared.read):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert [report.kind for report in shared.checker.reports] == ["RAW"]


def test_default_checker_has_no_observer() -> None:
    """It has one clock for the host, and nothing to be told."""
    with pytest.raises(ValueError, match="strict=True"):
        HazardChecker().observer()


def test_what_runs_after_the_loop_comes_after_all_of_it() -> None:
    """Also after a task that nobody awaited: the loop has stopped, so nothing runs beside."""
    shared = Shared()

    async def main() -> None:
        async def child() -> None:
            shared.write()

        left = asyncio.create_task(child())
        await asyncio.sleep(5)
        del left

    assert shared.run(main(), 0) == []
    shared.write()
    shared.checker.raise_if_any()


class Numbered(Pipeline[torch.Tensor, Any]):
    """A thousand elements in each step, until ``num_steps`` are made."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self.made: list[weakref.ref[torch.Tensor]] = []
        self.is_done = asyncio.Event()

    async def prepare(self, step: Step) -> torch.Tensor | None:
        if len(self.made) == self.num_steps:
            return None
        inputs = torch.full((1000,), float(step.index))
        self.made.append(weakref.ref(inputs))
        return inputs

    async def forward(self, step: Step, inputs: torch.Tensor) -> Any:
        return step.copy_to_host(step.launch(torch.sum, inputs))

    async def publish(self, step: Step, inputs: torch.Tensor, output: Any) -> None:
        await output
        if step.index == self.num_steps - 1:
            self.is_done.set()


def test_strict_checker_keeps_nothing_of_steps_that_are_over() -> None:
    """What a step hands over dies with the step: neither tensors nor entries pile up."""
    checker, alive = HazardChecker(strict=True), list[int]()

    async def main() -> None:
        with open_device("sim", profile="friendly") as device, checker.watch(device):
            pipeline = Numbered(200)
            async with OverlapScheduler(pipeline, device):
                await pipeline.is_done.wait()
            gc.collect()
            alive.append(sum(ref() is not None for ref in pipeline.made))

    virtual_run(main(), observers=[checker.observer()])
    checker.raise_if_any()
    assert alive[0] <= 2
    assert len(checker._hosts._meetings) < 20


def test_objects_without_weak_references_are_kept_in_bounded_number() -> None:
    """A tuple can be handed over like anything else, but not tuples for ever."""
    shared = Shared()

    async def main() -> None:
        given = (shared.cell,)

        async def give() -> None:
            for number in range(1000):
                handoff([number])
            shared.write()
            handoff(given)

        async def take() -> None:
            await asyncio.sleep(5)
            handoff(given)
            shared.read()

        await asyncio.gather(give(), take())

    assert shared.run(main(), 0) == []
    assert len(shared.checker._hosts._meetings) <= 257
