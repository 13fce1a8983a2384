"""What once stopped or misled the loop: each fault that a hostile reading found, kept out."""

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from aio_sched.errors import StepAbortedError
from aio_sched.lifecycle import Scheduler
from aio_sched.loop import OverlapScheduler, SequentialScheduler
from aio_sched.monitor import SchedulerMonitor
from aio_sched.stages import HostCopy, Step
from streams.device import open_device
from streams.errors import DeviceLostError, LaunchAbortedError, TorchModeOpenError
from tests.aio_sched.pipelines import Doubler, until

both = pytest.mark.parametrize("kind", [OverlapScheduler, SequentialScheduler])
each_stage = pytest.mark.parametrize("where", ["prepare", "forward", "publish"])


class Hooked(Doubler):
    """Calls ``at`` with the item in the stage ``where``."""

    def __init__(self, items: list[int], where: str = "") -> None:
        super().__init__(items)
        self.where = where

    async def prepare(self, step: Step) -> int | None:
        item = await super().prepare(step)
        if item is not None:
            await self._visit("prepare", item)
        return item

    async def forward(self, step: Step, inputs: int) -> HostCopy:
        await self._visit("forward", inputs)
        return await super().forward(step, inputs)

    async def publish(self, step: Step, inputs: int, output: HostCopy) -> None:
        await self._visit("publish", inputs)
        await super().publish(step, inputs, output)

    async def at(self, item: int) -> None:
        """What the test does there."""

    async def _visit(self, stage: str, item: int) -> None:
        if stage == self.where:
            await self.at(item)


async def run_to_end(
    pipeline: Doubler, kind: type[Scheduler] = OverlapScheduler, **how: Any
) -> Scheduler:
    """Run a pipeline until all of its items have ended."""
    async with kind(pipeline, "cpu", **how) as scheduler, asyncio.timeout(20.0):
        await pipeline.all_ended.wait()
    return scheduler


def assert_only_item_1_failed(pipeline: Doubler, error_type: type[BaseException]) -> None:
    """Items 0, 2 and 3 were published, and the scheduler ended in order."""
    assert pipeline.results == [0, 4, 6]
    [(_, error)] = pipeline.failures
    assert isinstance(error, error_type)
    assert pipeline.closings == [None]


@both
@each_stage
async def test_stage_awaiting_what_was_cancelled_fails_its_step_only(
    kind: type[Scheduler], where: str
) -> None:
    """A future that somebody else cancelled ends one step, not the scheduler."""

    class AwaitsCancelled(Hooked):
        async def at(self, item: int) -> None:
            if item == 1:
                future = asyncio.get_running_loop().create_future()
                future.cancel()
                await future

    pipeline = AwaitsCancelled([0, 1, 2, 3], where)
    await run_to_end(pipeline, kind)
    assert_only_item_1_failed(pipeline, StepAbortedError)


@both
@pytest.mark.parametrize("error_type", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
async def test_launch_raising_no_exception_fails_its_step_only(
    kind: type[Scheduler], error_type: type[BaseException]
) -> None:
    """What ends a task or a process elsewhere is, raised by a launch, a failed launch."""

    def model(item: int) -> int:
        if item == 1:
            raise error_type("from the device")
        return 2 * item

    pipeline = Doubler([0, 1, 2, 3])
    pipeline.on_device = model
    await run_to_end(pipeline, kind)
    assert_only_item_1_failed(pipeline, LaunchAbortedError)
    assert isinstance(pipeline.failures[0][1].__cause__, error_type)


@both
@each_stage
async def test_torch_mode_open_across_an_await_fails_its_step_only(
    kind: type[Scheduler], where: str
) -> None:
    """Strict mode ends the one step that left a mode of torch to the other tasks."""

    class LeavesModeOpen(Hooked):
        async def at(self, item: int) -> None:
            if item == 1:
                with torch.device("cpu"):
                    await asyncio.sleep(0)

    pipeline = LeavesModeOpen([0, 1, 2, 3], where)
    await run_to_end(pipeline, kind, strict=True)
    assert_only_item_1_failed(pipeline, TorchModeOpenError)


@both
async def test_when_done_callback_that_raises_hurts_nobody(kind: type[Scheduler]) -> None:
    """Other callbacks come, every step has its ending, and the device is closed."""
    called: list[int] = []

    class GivesBackTwice(Hooked):
        async def forward(self, step: Step, inputs: int) -> HostCopy:
            step.when_done(lambda: list[int]().remove(inputs))
            step.when_done(lambda: called.append(inputs))
            return await super().forward(step, inputs)

        async def at(self, item: int) -> None:
            if item == 1:
                raise OSError("and the step fails as well")

    pipeline = GivesBackTwice([0, 1, 2, 3], "forward")
    scheduler = await run_to_end(pipeline, kind)
    assert_only_item_1_failed(pipeline, OSError)
    assert called == [0, 1, 2, 3]
    assert scheduler.device.is_closed


@both
@pytest.mark.parametrize("method", ["state", "stage", "ran", "published", "failed"])
async def test_monitor_that_raises_is_dropped_and_the_others_see_all(
    kind: type[Scheduler], method: str
) -> None:
    """Watching does not change what is watched."""
    published: list[int] = []

    class Counts(SchedulerMonitor):
        def published(self, step: int, now_s: float) -> None:
            published.append(step)

    class FailsOne(Hooked):
        async def at(self, item: int) -> None:
            if item == 1:
                raise OSError("so that failed() is called")

    def broken(self: SchedulerMonitor, *what: Any) -> None:
        raise ZeroDivisionError(f"in {method}")

    monitor = type("Broken", (SchedulerMonitor,), {method: broken})()
    pipeline = FailsOne([0, 1, 2, 3], "forward")
    scheduler = await run_to_end(pipeline, kind, monitors=(monitor, Counts()))
    assert_only_item_1_failed(pipeline, OSError)
    assert published == [0, 1, 2, 3]
    assert scheduler.device.is_closed


@both
async def test_delivered_step_is_not_failed_by_a_stop(kind: type[Scheduler]) -> None:
    """What has been delivered stays so, while other work of the step is on the device."""
    gate = threading.Event()

    class RunsOn(Doubler):
        async def forward(self, step: Step, inputs: int) -> HostCopy:
            output = await super().forward(step, inputs)
            step.launch(gate.wait, 20.0)
            return output

    pipeline = RunsOn([1])
    async with kind(pipeline, "cpu") as scheduler:
        await until(lambda: pipeline.results == [2])
        stopping = asyncio.create_task(scheduler.stop(drain=False))
        await until(lambda: not scheduler.turns.in_flight)
        gate.set()
        await stopping
    assert pipeline.failures == []
    assert pipeline.closings == [None]


@both
async def test_device_lost_while_publish_raises_is_what_join_raises(kind: type[Scheduler]) -> None:
    """The stage's own error does not hide why the scheduler stopped."""
    with open_device("cpu") as device:

        class LosesDevice(Hooked):
            async def at(self, item: int) -> None:
                device.lose(RuntimeError("fell off the bus"))
                raise ValueError("plain error of publish")

        pipeline = LosesDevice([1], "publish")
        with pytest.raises(DeviceLostError, match="fell off the bus"):
            async with kind(pipeline, device) as scheduler:
                with pytest.raises(DeviceLostError, match="fell off the bus"):
                    await scheduler.join()
        assert len(pipeline.failures) == 1
        [closing] = pipeline.closings
        assert isinstance(closing, DeviceLostError)


@both
@each_stage
async def test_error_of_a_stage_keeps_nothing_of_its_step_alive(
    kind: type[Scheduler], where: str
) -> None:
    """What a failed stage had in hand is freed without the cyclic collector."""
    held: list[weakref.ref[torch.Tensor]] = []

    class RunsOut(Hooked):
        async def at(self, item: int) -> None:
            tensor = torch.zeros(4)
            held.append(weakref.ref(tensor))
            if item < 3:
                async with asyncio.timeout(0):  # throws into the stage, as any await may
                    await asyncio.Event().wait()

        def failed(self, step: Step, inputs: int | None, error: BaseException) -> None:
            super().failed(step, inputs, StepAbortedError("a pipeline that keeps no errors"))

    pipeline = RunsOut(list(range(6)), where)
    with _collector_off():
        async with kind(pipeline, "cpu"):
            await until(pipeline.all_ended.is_set)
            alive = [item for item, tensor in enumerate(held) if tensor() is not None]
    assert len(pipeline.failures) == 3
    assert [item for item in alive if item < 3] == []


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
