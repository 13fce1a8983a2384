"""The verbs of a step: what they order on the device, and where they are refused."""

import asyncio
import threading
from typing import Any

import pytest
import torch

from aio_sched.errors import StageTypeError
from aio_sched.lifecycle import Scheduler
from aio_sched.loop import OverlapScheduler, SequentialScheduler
from aio_sched.stages import HostCopy, Pipeline, Step
from streams.device import open_device
from streams.launch import Launch
from streams.stream import Stream
from tests.aio_sched.pipelines import Doubler, until

both = pytest.mark.parametrize("kind", [OverlapScheduler, SequentialScheduler])


def queue_before(launch: Launch[Any]) -> str:
    """Name what a launch on the device has yet to wait for, itself included."""
    return " | ".join(launch.event.recorded_on().queue_before(launch.event.number))


class Table(Pipeline[int, HostCopy]):
    """Rewrites one table in every prepare, and copies it to the host; copies can be held."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.table = torch.zeros(4)
        self.gate = threading.Event()
        self.writes: list[Launch[Any]] = []
        self.forwards: list[Launch[Any]] = []
        self.results: list[float] = []

    async def prepare(self, step: Step) -> int | None:
        if step.index == 3:
            return None
        self.writes.append(step.launch(self.table.fill_, step.index))
        return step.index

    async def forward(self, step: Step, inputs: int) -> HostCopy:
        step.copy_stream.launch(self.gate.wait, 20.0)
        self.forwards.append(step.launch(lambda: self.table))
        step.shared_read_done()  # no barrier hides that the copy is not waited for
        if self.source == "tensor":
            return step.copy_to_host(self.table)
        return step.copy_to_host(self.forwards[-1], reused=self.source == "reused launch")

    async def publish(self, step: Step, inputs: int, output: HostCopy) -> None:
        self.results.append(float((await output)[0]))


@pytest.mark.parametrize("policy", ["read_done", "whole_forward"])
@pytest.mark.parametrize("source", ["tensor", "reused launch"])
async def test_copied_table_is_rewritten_after_the_copy(source: str, policy: str) -> None:
    """The next prepare's and forward's work wait, on the device, for a copy of reused memory."""
    pipeline = Table(source)
    async with OverlapScheduler(pipeline, "cpu", war_barrier=policy):
        await until(lambda: len(pipeline.forwards) == 2)
        assert "on 'copy'" in queue_before(pipeline.writes[1])
        assert "on 'copy'" in queue_before(pipeline.forwards[1])
        pipeline.gate.set()
        await until(lambda: len(pipeline.results) == 3)
    assert pipeline.results == [0.0, 1.0, 2.0]


async def test_copied_forward_alone_is_waited_for_by_the_next_forward() -> None:
    """Forward waits for the copy by itself, also if prepare enqueues nothing."""

    class StaticOutput(Table):
        async def prepare(self, step: Step) -> int | None:
            return None if step.index == 2 else step.index

    pipeline = StaticOutput("reused launch")
    async with OverlapScheduler(pipeline, "cpu"):
        await until(lambda: len(pipeline.forwards) == 2)
        assert "on 'copy'" in queue_before(pipeline.forwards[1])
        pipeline.gate.set()
        await until(lambda: len(pipeline.results) == 2)


async def test_fresh_value_of_a_launch_delays_nobody() -> None:
    """The next step runs to its end while the copy of a launch's own value is held."""
    pipeline = Table("fresh launch")
    async with OverlapScheduler(pipeline, "cpu"):
        await until(lambda: len(pipeline.forwards) == 2)
        await until(pipeline.writes[1].query)
        await until(pipeline.forwards[1].query)
        assert pipeline.results == []
        pipeline.gate.set()


class Idle(Doubler):
    """Its first prepare launches something long and then finds nothing to do, or raises."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__([])
        self.error = error
        self.gate = threading.Event()
        self.launches: list[Launch[Any]] = []
        self.was_done: list[bool] = []

    async def prepare(self, step: Step) -> int | None:
        if self.launches:
            return None
        launch = step.launch(self.gate.wait, 20.0)
        self.launches.append(launch)
        step.when_done(lambda: self.was_done.append(launch.query()))
        if self.error is not None:
            raise self.error
        return None


@both
@pytest.mark.parametrize("error", [None, OSError("half-way")])
async def test_broken_off_prepare_gives_back_after_its_launch(
    kind: type[Scheduler], error: Exception | None
) -> None:
    """``when_done`` of a step that got no further than prepare waits for its device work."""
    pipeline = Idle(error)
    async with kind(pipeline, "cpu") as scheduler:
        await until(lambda: pipeline.launches)
        for _ in range(20):
            await asyncio.sleep(0)
            scheduler.turns.keep_alive.collect()
        assert pipeline.was_done == []
        pipeline.gate.set()
        await until(lambda: pipeline.was_done)
    assert pipeline.was_done == [True]
    assert [failure for _, failure in pipeline.failures] == [error] * (error is not None)


class OwnStream(Doubler):
    """Does part of its work on a stream of its own."""

    def __init__(self, own: Stream) -> None:
        super().__init__([0, 1])
        self.streams = (own,)
        self.gate = threading.Event()
        self.was_done: list[bool] = []
        self.fails_at: int | None = None

    async def forward(self, step: Step, inputs: int) -> HostCopy:
        launch = step.watch(self.streams[0].launch(self._side_work, inputs))
        step.when_done(lambda: self.was_done.append(launch.query()))
        return await super().forward(step, inputs)

    def _side_work(self, item: int) -> None:
        assert self.gate.wait(20.0), "the test never released it"
        if item == self.fails_at:
            raise OSError("side work failed")


@both
async def test_copy_done_waits_for_the_pipelines_own_streams(kind: type[Scheduler]) -> None:
    """A step has left the device when its watched launches on further streams have."""
    with open_device("cpu") as device:
        pipeline = OwnStream(device.stream("own"))
        async with kind(pipeline, device) as scheduler:
            await until(lambda: pipeline.results == [0])
            copy_done = scheduler.turns.in_flight[0].step.copy_done
            assert copy_done is not None
            assert "on 'own'" in " ".join(copy_done.recorded_on().queue_before(copy_done.number))
            assert pipeline.was_done == []
            pipeline.gate.set()
            await until(lambda: len(pipeline.was_done) == 2)
        assert pipeline.was_done == [True, True]


@both
async def test_failure_on_the_pipelines_own_stream_fails_its_step(kind: type[Scheduler]) -> None:
    """A watched launch that fails fails its step, and no other."""
    with open_device("cpu") as device:
        pipeline = OwnStream(device.stream("own"))
        pipeline.fails_at = 0
        pipeline.gate.set()
        async with kind(pipeline, device):
            await until(lambda: len(pipeline.was_done) == 2)
        [(item, error)] = pipeline.failures
        assert item == 0
        assert isinstance(error, OSError)


VERBS: dict[str, tuple[Any, ...]] = {
    "launch": (int,),
    "copy_to_host": (torch.zeros(1),),
    "keep_alive": (object(),),
    "when_done": (int,),
    "shared_read_done": (),
}


@both
@pytest.mark.parametrize("verb", VERBS)
async def test_verb_in_publish_is_refused(kind: type[Scheduler], verb: str) -> None:
    """After forward the step's end is recorded: nothing can be added to it."""

    class Late(Doubler):
        async def publish(self, step: Step, inputs: int, output: HostCopy) -> None:
            getattr(step, verb)(*VERBS[verb])

    pipeline = Late([1])
    async with kind(pipeline, "cpu"):
        await until(lambda: pipeline.failures)
    [(_, error)] = pipeline.failures
    assert isinstance(error, StageTypeError)
    assert "after forward has returned" in str(error)


async def test_shared_read_done_in_prepare_is_refused() -> None:
    """Prepare writes the tables; forward alone can say that it has read them."""

    class TooEarly(Doubler):
        async def prepare(self, step: Step) -> int | None:
            item = await super().prepare(step)
            if item is not None:
                step.shared_read_done()
            return item

    pipeline = TooEarly([1])
    async with OverlapScheduler(pipeline, "cpu"):
        await until(lambda: pipeline.failures)
    with pytest.raises(StageTypeError, match="outside forward"):
        raise pipeline.failures[0][1]


async def test_launch_in_a_child_task_is_refused() -> None:
    """A task that a stage starts has no stream, whoever's happens to be current."""

    class Gathers(Doubler):
        async def forward(self, step: Step, inputs: int) -> HostCopy:
            async def part() -> None:
                step.launch(self.on_device, inputs)

            await asyncio.gather(part())
            return await super().forward(step, inputs)

    pipeline = Gathers([1])
    async with OverlapScheduler(pipeline, "cpu"):
        await until(lambda: pipeline.failures)
    with pytest.raises(StageTypeError, match="a task that a stage starts has no stream"):
        raise pipeline.failures[0][1]


class FailsBeside(Doubler):
    """A launch before or after the copied one fails; notes what awaiting the copy gave."""

    def __init__(self, when: str) -> None:
        super().__init__([1])
        self.when = when
        self.outcomes: list[Any] = []

    async def forward(self, step: Step, inputs: int) -> HostCopy:
        if self.when == "before":
            self.beside = step.launch(self._fail)
        output = await super().forward(step, inputs)
        if self.when == "after":
            self.beside = step.launch(self._fail)
        return output

    async def publish(self, step: Step, inputs: int, output: HostCopy) -> None:
        await self.beside.event.reached()  # so that luck decides nothing
        try:
            self.outcomes.append(await output)
        except OSError as error:
            self.outcomes.append(str(error))

    def _fail(self) -> None:
        raise OSError("side work failed")


@both
@pytest.mark.parametrize(("when", "outcome"), [("before", "side work failed"), ("after", 2)])
async def test_copy_raises_what_failed_before_it_only(
    kind: type[Scheduler], when: str, outcome: object
) -> None:
    """A later launch that fails fails its step, but not the copy that came before."""
    pipeline = FailsBeside(when)
    async with kind(pipeline, "cpu"):
        await until(lambda: pipeline.failures)
    assert pipeline.outcomes == [outcome]
    assert isinstance(pipeline.failures[0][1], OSError)
