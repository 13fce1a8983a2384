"""Pauses after failing prepares, what an idle prepare took, and starts after a failed start."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from aio_sched import turn
from aio_sched.errors import SchedulerClosedError, StageTypeError
from aio_sched.inbox import Inbox
from aio_sched.lifecycle import Scheduler
from aio_sched.loop import OverlapScheduler, SequentialScheduler
from aio_sched.stages import HostCopy, Pipeline, Step
from streams.device import open_device
from tests.aio_sched.pipelines import Doubler, until

both = pytest.mark.parametrize("kind", [OverlapScheduler, SequentialScheduler])


class Broken(Doubler):
    """Its prepare raises until it is mended."""

    num_calls = 0
    is_mended = False

    async def prepare(self, step: Step) -> int | None:
        self.num_calls += 1
        if not self.is_mended:
            raise OSError("broken")
        return await super().prepare(step)


@pytest.fixture
def endless_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the pause after a failing prepare last for ever, unless something ends it."""
    never = SimpleNamespace(timeout=lambda seconds: contextlib.nullcontext())
    monkeypatch.setattr(turn, "asyncio", never)


async def in_pause(pipeline: Broken) -> None:
    """Wait until the first prepare has failed, and see that no second one comes."""
    await until(lambda: pipeline.failures)
    for _ in range(50):
        await asyncio.sleep(0)
    assert pipeline.num_calls == 1


@both
@pytest.mark.usefixtures("endless_pause")
async def test_wake_ends_the_pause_after_a_failing_prepare(kind: type[Scheduler]) -> None:
    """New work may be what was missing: it does not wait for the pause to end."""
    pipeline = Broken([1])
    async with kind(pipeline, "cpu") as scheduler:
        await in_pause(pipeline)
        pipeline.is_mended = True
        scheduler.wake()
        await until(lambda: pipeline.results == [2])


@both
@pytest.mark.usefixtures("endless_pause")
async def test_stop_ends_the_pause_and_prepares_nothing_more(kind: type[Scheduler]) -> None:
    """A stop neither waits for the pause nor tries once more."""
    pipeline = Broken([1])
    async with kind(pipeline, "cpu") as scheduler, asyncio.timeout(20.0):
        await in_pause(pipeline)
        await scheduler.stop()
    assert pipeline.num_calls == 1
    assert pipeline.closings == [None]


class Asked(Pipeline[list[int], HostCopy]):
    """Doubles what it is asked; may forget to return what it took."""

    def __init__(self, *, forgets: bool = False) -> None:
        self.inbox: Inbox[int, int] = Inbox(self.wake)
        self.forgets = forgets

    async def prepare(self, step: Step) -> list[int] | None:
        taken = self.inbox.take(step, 8)
        return None if self.forgets else taken or None

    async def forward(self, step: Step, inputs: list[int]) -> HostCopy:
        return step.copy_to_host(step.launch(lambda: [2 * item for item in inputs]))

    async def publish(self, step: Step, inputs: list[int], output: HostCopy) -> None:
        self.inbox.answer(step, await output)


@both
async def test_items_of_a_prepare_that_returns_none_are_failed(kind: type[Scheduler]) -> None:
    """Whoever asked is told, instead of waiting for a step that never comes."""
    pipeline = Asked(forgets=True)
    async with kind(pipeline, "cpu"), asyncio.timeout(20.0):
        with pytest.raises(StageTypeError, match="took items from the inbox and returned None"):
            await pipeline.inbox.ask(1)
        pipeline.forgets = False
        assert await pipeline.inbox.ask(2) == 4


@both
async def test_second_scheduler_answers_from_the_same_inbox(kind: type[Scheduler]) -> None:
    """An inbox is closed while nobody runs its pipeline, and no longer."""
    pipeline = Asked()
    for item in (1, 2):
        async with kind(pipeline, "cpu"), asyncio.timeout(20.0):
            assert await pipeline.inbox.ask(item) == 2 * item
        with pytest.raises(SchedulerClosedError):
            await pipeline.inbox.ask(item)


@both
async def test_taken_stream_name_leaves_nothing_open(kind: type[Scheduler]) -> None:
    """A start that fails half-way can be tried again under another name."""
    pipeline = Doubler([1])
    with open_device("cpu") as device:
        device.stream("copy")
        with pytest.raises(ValueError, match="copy"):
            async with kind(pipeline, device):
                pass
        assert [stream.name for stream in device.streams] == ["copy"]
        async with kind(pipeline, device, name="other"):
            await until(lambda: pipeline.results == [2])


@both
async def test_stop_before_the_start_does_not_spoil_it(kind: type[Scheduler]) -> None:
    """A stop that came too early is refused, and the scheduler can be started."""
    pipeline = Doubler([1])
    scheduler = kind(pipeline, "cpu")
    with pytest.raises(SchedulerClosedError, match="was not started"):
        await scheduler.stop()
    async with scheduler:
        await until(lambda: pipeline.results == [2])
