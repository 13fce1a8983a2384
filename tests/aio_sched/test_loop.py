"""The overlapped and the sequential loop: order, overlap, idleness, failures."""

import asyncio
import random
from typing import Any

import pytest

from aio_sched.errors import PipelineBusyError, StageTypeError
from aio_sched.lifecycle import Scheduler
from aio_sched.loop import OverlapScheduler, SequentialScheduler
from aio_sched.stages import HostCopy, Pipeline, Step
from tests.aio_sched.pipelines import Doubler, Holdable, until

both = pytest.mark.parametrize("kind", [OverlapScheduler, SequentialScheduler])


async def run_to_end(
    pipeline: Doubler, kind: type[Scheduler] = OverlapScheduler, **how: Any
) -> None:
    """Run a pipeline until all of its items have ended."""
    async with kind(pipeline, "cpu", **how), asyncio.timeout(20.0):
        await pipeline.all_ended.wait()


@both
async def test_many_items_are_published_in_order(kind: type[Scheduler]) -> None:
    """Every item is published once, in the order in which it was prepared."""
    pipeline = Doubler(list(range(50)))
    await run_to_end(pipeline, kind)
    assert pipeline.results == [2 * item for item in range(50)]
    assert pipeline.failures == []
    assert pipeline.closings == [None]


async def test_overlap_prepares_next_while_forward_runs() -> None:
    """Step 1 is prepared and launched while the device still works on step 0."""
    pipeline = Holdable([0, 1, 2], held={0})
    async with OverlapScheduler(pipeline, "cpu"):
        await until(lambda: ("forward", 1) in pipeline.log)
        assert pipeline.started[0].wait(20.0)
        assert pipeline.results == []
        assert ("prepare", 2) not in pipeline.log, "depth 2 must bound what is in flight"
        pipeline.release_all()
        await until(pipeline.all_ended.is_set)
    assert pipeline.results == [0, 2, 4]


async def test_room_goes_to_the_issuer_before_the_next_wait_for_results() -> None:
    """After a publish the next step is launched first: the device may be about to run dry."""

    class NotingWaits(Holdable):
        async def publish(self, step: Step, inputs: int, output: HostCopy) -> None:
            self.log.append(("wait", inputs))
            await super().publish(step, inputs, output)

    pipeline = NotingWaits([0, 1, 2], held={0, 1})
    async with OverlapScheduler(pipeline, "cpu"):
        await until(lambda: ("forward", 1) in pipeline.log)
        pipeline.release[0].set()
        await until(lambda: ("wait", 1) in pipeline.log)
        pipeline.release_all()
        await until(pipeline.all_ended.is_set)
    after = pipeline.log[pipeline.log.index(("publish", 0)) + 1 :]
    assert after[:3] == [("prepare", 2), ("forward", 2), ("wait", 1)]


async def test_sequential_finishes_a_step_before_it_prepares_the_next() -> None:
    """The oracle never has two steps under way."""
    pipeline = Doubler([0, 1, 2])
    await run_to_end(pipeline, SequentialScheduler)
    stages = ("prepare", "forward", "publish")
    assert pipeline.log == [(stage, item) for item in range(3) for stage in stages]


@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_depth_bounds_steps_in_flight(depth: int) -> None:
    """No more than ``depth`` steps are launched and unpublished."""
    pipeline = Holdable(list(range(5)), held={0})
    async with OverlapScheduler(pipeline, "cpu", depth=depth) as scheduler:
        await until(lambda: len(scheduler.turns.in_flight) == depth)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len([what for what, _ in pipeline.log if what == "prepare"]) == depth
        pipeline.release_all()
        await until(pipeline.all_ended.is_set)


async def test_results_do_not_wait_for_a_slow_prepare() -> None:
    """Step 0 is published while prepare of step 1 is suspended."""
    gate = asyncio.Event()

    class SlowSecond(Doubler):
        async def prepare(self, step: Step) -> int | None:
            item = await super().prepare(step)
            if item == 1:
                await gate.wait()
            return item

    pipeline = SlowSecond([0, 1])
    async with OverlapScheduler(pipeline, "cpu"):
        await until(lambda: pipeline.results == [0])
        gate.set()
        await until(pipeline.all_ended.is_set)
    assert pipeline.results == [0, 2]


async def test_batch_without_overlap_runs_alone() -> None:
    """A batch that asks for it is launched after, and finished before, its neighbours."""

    class Inputs:
        def __init__(self, item: int) -> None:
            self.item = item
            self.overlap = item != 1

    class Mixed(Pipeline[Inputs, Any]):
        def __init__(self) -> None:
            self.log: list[tuple[str, int]] = []
            self.num_prepared = 0
            self.all_ended = asyncio.Event()

        async def prepare(self, step: Step) -> Inputs | None:
            if self.num_prepared == 4:
                return None
            self.num_prepared += 1
            return Inputs(self.num_prepared - 1)

        async def forward(self, step: Step, inputs: Inputs) -> Any:
            self.log.append(("forward", inputs.item))
            return step.launch(lambda: None)

        async def publish(self, step: Step, inputs: Inputs, output: Any) -> None:
            await output
            self.log.append(("publish", inputs.item))
            if inputs.item == 3:
                self.all_ended.set()

    pipeline = Mixed()
    async with OverlapScheduler(pipeline, "cpu"), asyncio.timeout(20.0):
        await pipeline.all_ended.wait()
    log = pipeline.log
    assert log.index(("publish", 0)) < log.index(("forward", 1))
    assert log.index(("publish", 1)) < log.index(("forward", 2))


@both
async def test_idle_scheduler_sleeps_until_woken(kind: type[Scheduler]) -> None:
    """Without work prepare is not called again until ``wake``."""

    class Counted(Doubler):
        num_calls = 0

        async def prepare(self, step: Step) -> int | None:
            self.num_calls += 1
            return await super().prepare(step)

    pipeline = Counted([])
    async with kind(pipeline, "cpu") as scheduler:
        await until(lambda: pipeline.num_calls == 1)
        for _ in range(50):
            await asyncio.sleep(0)
        assert pipeline.num_calls == 1
        pipeline.inbox.append(7)
        pipeline.num_expected = 1
        scheduler.wake()
        await until(lambda: pipeline.results == [14])


@both
async def test_wake_during_prepare_is_not_lost(kind: type[Scheduler]) -> None:
    """Work that arrives while prepare looks elsewhere is found without a second wake."""
    looked, go_on = asyncio.Event(), asyncio.Event()

    class LooksTooEarly(Doubler):
        async def prepare(self, step: Step) -> int | None:
            if not looked.is_set():
                looked.set()
                await go_on.wait()
                return None
            return await super().prepare(step)

    pipeline = LooksTooEarly([])
    async with kind(pipeline, "cpu") as scheduler:
        await looked.wait()
        pipeline.inbox.append(1)
        pipeline.num_expected = 1
        scheduler.wake()
        go_on.set()
        await until(lambda: pipeline.results == [2])


@both
@pytest.mark.parametrize("where", ["prepare", "forward", "device", "publish"])
async def test_failing_step_fails_alone(kind: type[Scheduler], where: str) -> None:
    """One step raises in one place; its item fails once, all others are published."""

    class Breaks(Doubler):
        current: int | None = None

        async def prepare(self, step: Step) -> int | None:
            self.current = await super().prepare(step)
            self.break_at("prepare", self.current)
            return self.current

        async def forward(self, step: Step, inputs: int) -> Any:
            self.break_at("forward", inputs)
            return await super().forward(step, inputs)

        async def publish(self, step: Step, inputs: int, output: Any) -> None:
            self.break_at("publish", inputs)
            await super().publish(step, inputs, output)

        def break_at(self, place: str, item: int | None) -> None:
            if place == where and item == 3:
                raise ZeroDivisionError(f"{place} of {item}")

        def failed(self, step: Step, inputs: int | None, error: BaseException) -> None:
            super().failed(step, self.current if where == "prepare" else inputs, error)

    pipeline = Breaks(list(range(8)))
    pipeline.on_device = lambda item: (
        2 * item // (item - 3 if where == "device" else 1) * (item - 3 if where == "device" else 1)
    )
    await run_to_end(pipeline, kind)
    assert sorted(pipeline.results) == pipeline.results
    assert len(pipeline.results) == 7
    [(item, error)] = pipeline.failures
    assert item == 3
    assert isinstance(error, ZeroDivisionError)


async def test_failure_of_an_unawaited_launch_fails_its_step() -> None:
    """A launch that nobody awaits still fails the step that made it."""

    def boom() -> None:
        raise OSError("table not written")

    class Careless(Doubler):
        async def prepare(self, step: Step) -> int | None:
            item = await super().prepare(step)
            if item == 1:
                step.launch(boom)
            return item

    pipeline = Careless([0, 1, 2])
    await run_to_end(pipeline)
    assert pipeline.results == [0, 4]
    [(item, error)] = pipeline.failures
    assert item == 1
    assert isinstance(error, OSError)


async def test_prepare_that_always_raises_does_not_spin() -> None:
    """A prepare that fails without end is tried ever more rarely, and stop still works."""

    class Broken(Doubler):
        num_calls = 0

        async def prepare(self, step: Step) -> int | None:
            self.num_calls += 1
            raise RuntimeError("broken")

    pipeline = Broken([1])
    async with OverlapScheduler(pipeline, "cpu"):
        await until(lambda: pipeline.num_calls == 4)
        for _ in range(500):
            await asyncio.sleep(0)
        assert pipeline.num_calls <= 8
    assert all(isinstance(error, RuntimeError) for _, error in pipeline.failures)


@both
async def test_stage_returning_the_wrong_type_fails_its_step(kind: type[Scheduler]) -> None:
    """A forgotten return in forward and a result from publish are named as such."""

    class NoOutput(Doubler):
        async def forward(self, step: Step, inputs: int) -> Any:
            step.launch(self.on_device, inputs)

    class ReturnsResult(Doubler):
        async def publish(self, step: Step, inputs: int, output: Any) -> Any:
            return await output

    class ForgotAwait(Doubler):
        async def forward(self, step: Step, inputs: int) -> Any:
            return super().forward(step, inputs)

    messages = ["forward returned None", "publish returned int", "forward returned a coroutine"]
    for pipeline, message in zip(
        (NoOutput([1]), ReturnsResult([1]), ForgotAwait([1])), messages, strict=True
    ):
        await run_to_end(pipeline, kind)
        [(_, error)] = pipeline.failures
        assert isinstance(error, StageTypeError)
        assert message in str(error)


async def test_stage_that_is_no_coroutine_function_is_refused() -> None:
    """A ``def`` stage is refused before anything starts."""

    class Wrong(Doubler):
        def prepare(self, step: Step) -> Any:
            return None

    with pytest.raises(StageTypeError, match=r"Wrong\.prepare is no coroutine function"):
        OverlapScheduler(Wrong(), "cpu")
    with pytest.raises(StageTypeError, match="no Pipeline"):
        OverlapScheduler(object(), "cpu")  # type: ignore[arg-type]  # the mistake under test


async def test_second_scheduler_on_a_pipeline_is_refused() -> None:
    """A pipeline belongs to one scheduler at a time, and is free again afterwards."""
    pipeline = Doubler([1])
    async with OverlapScheduler(pipeline, "cpu"):
        with pytest.raises(PipelineBusyError, match="run by"):
            async with SequentialScheduler(pipeline, "cpu"):
                pass
        await until(pipeline.all_ended.is_set)
    async with SequentialScheduler(pipeline, "cpu"):
        pass


@pytest.mark.parametrize("seed", range(5))
async def test_random_arrivals_give_the_oracle_results(seed: int) -> None:
    """Items that arrive at random moments are published once and in order, on both loops."""
    chance = random.Random(seed)
    items = [chance.randrange(1000) for _ in range(40)]
    pauses = [chance.choice([0.0, 0.0, 0.001]) for _ in items]
    outcomes = []
    for kind in (OverlapScheduler, SequentialScheduler):
        pipeline = Doubler()
        pipeline.num_expected = len(items)
        async with kind(pipeline, "cpu") as scheduler, asyncio.timeout(20.0):
            for item, pause in zip(items, pauses, strict=True):
                pipeline.inbox.append(item)
                scheduler.wake()
                await asyncio.sleep(pause)
            await pipeline.all_ended.wait()
        outcomes.append(pipeline.results)
    assert outcomes[0] == outcomes[1] == [2 * item for item in items]
