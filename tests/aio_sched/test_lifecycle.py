"""Starting, stopping, cancelling: every step ends once, nothing is left behind."""

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from aio_sched.errors import SchedulerClosedError, StepAbortedError
from aio_sched.lifecycle import Scheduler
from aio_sched.loop import OverlapScheduler, SequentialScheduler
from aio_sched.stages import Step
from streams.device import open_device
from streams.errors import DeadlineError, DeviceLostError, NotIssuerError
from tests.aio_sched.pipelines import Doubler, Holdable, until

both = pytest.mark.parametrize("kind", [OverlapScheduler, SequentialScheduler])


async def test_stop_with_drain_publishes_what_is_in_flight() -> None:
    """What was launched is published; what was not yet prepared stays in the inbox."""
    pipeline = Holdable([0, 1, 2, 3], held={0})
    async with OverlapScheduler(pipeline, "cpu") as scheduler:
        await until(lambda: ("forward", 1) in pipeline.log)
        stopping = asyncio.create_task(scheduler.stop())
        await asyncio.sleep(0)
        pipeline.release_all()
        await stopping
    assert pipeline.results == [0, 2]
    assert list(pipeline.inbox) == [2, 3]
    assert pipeline.failures == []
    assert pipeline.closings == [None]


async def test_stop_without_drain_fails_what_is_in_flight() -> None:
    """Launched steps fail once each; their device work still runs out before the end."""
    pipeline = Holdable([0, 1, 2], held={0})
    with open_device("cpu") as device:
        async with OverlapScheduler(pipeline, device) as scheduler:
            await until(lambda: ("forward", 1) in pipeline.log)
            stopping = asyncio.create_task(scheduler.stop(drain=False))
            await until(lambda: len(pipeline.failures) == 2)
            assert not stopping.done(), "the device still uses this step's memory"
            pipeline.release_all()
            await stopping
        assert pipeline.started[1].is_set()
        assert device.streams == ()
    assert [item for item, _ in pipeline.failures] == [0, 1]
    assert all(isinstance(error, StepAbortedError) for _, error in pipeline.failures)
    assert pipeline.results == []


async def test_wake_after_stop_says_that_it_is_closed() -> None:
    """Work offered to a stopped scheduler is refused, not lost."""
    pipeline = Doubler()
    async with OverlapScheduler(pipeline, "cpu") as scheduler:
        pass
    with pytest.raises(SchedulerClosedError, match="takes no more work"):
        scheduler.wake()
    with pytest.raises(SchedulerClosedError, match="started before"):
        async with scheduler:
            pass


async def test_wake_before_start_says_that_it_is_not_started() -> None:
    """A scheduler outside ``async with`` does not run."""
    with pytest.raises(SchedulerClosedError, match="not started"):
        OverlapScheduler(Doubler(), "cpu").wake()


@both
async def test_stop_in_a_stage_is_refused(kind: type[Scheduler]) -> None:
    """A stage that awaits stop would wait for itself; request_stop does it."""
    refusals: list[str] = []

    class StopsItself(Doubler):
        scheduler: Scheduler

        async def publish(self, step: Step, inputs: int, output: Any) -> None:
            try:
                await self.scheduler.stop()
            except SchedulerClosedError as error:
                refusals.append(str(error))
            self.scheduler.request_stop()
            await super().publish(step, inputs, output)

    pipeline = StopsItself([1, 2, 3])
    async with kind(pipeline, "cpu") as pipeline.scheduler:
        await pipeline.scheduler.join()
    assert "request_stop" in refusals[0]
    assert pipeline.results[0] == 2
    assert len(pipeline.results) + len(pipeline.inbox) == 3


@both
async def test_prepare_that_never_returns_does_not_hang_the_stop(kind: type[Scheduler]) -> None:
    """Stop waits ``stop_deadline_s`` for a suspended prepare, then cancels it."""

    class Forever(Doubler):
        async def prepare(self, step: Step) -> int | None:
            await asyncio.get_running_loop().create_future()
            return None

    pipeline = Forever([1])
    async with kind(pipeline, "cpu", stop_deadline_s=0.05):
        await asyncio.sleep(0)
    [(item, error)] = pipeline.failures
    assert item is None
    assert isinstance(error, StepAbortedError)


async def test_launch_that_hangs_stops_the_scheduler_by_name() -> None:
    """The deadline error names event, step, stream and what hangs; every step fails once."""
    pipeline = Holdable([0, 1, 2], held={0})
    with open_device("cpu") as device:
        scheduler = OverlapScheduler(pipeline, device, wait_deadline_s=0.05)
        with pytest.raises(DeadlineError) as caught:
            async with scheduler:
                with pytest.raises(DeadlineError):
                    await scheduler.join()
                with pytest.raises(SchedulerClosedError, match="DeadlineError"):
                    scheduler.wake()
        pipeline.release_all()
    message = str(caught.value)
    assert "_hold" in message
    assert "forward#0" in message
    assert [item for item, _ in pipeline.failures] == [0, 1]
    assert pipeline.closings == [caught.value]


@both
async def test_lost_device_fails_every_step_once_and_stops(kind: type[Scheduler]) -> None:
    """A device fault reaches all steps in flight, ``closed``, ``join`` and the block's end."""
    pipeline = Holdable([0, 1, 2], held={0})
    with open_device("cpu") as device, pytest.raises(DeviceLostError, match="caught fire"):
        async with kind(pipeline, device) as scheduler:
            await until(lambda: pipeline.started[0].is_set())
            in_flight = len(scheduler.turns.in_flight)
            device.lose(RuntimeError("it caught fire"))
            pipeline.release_all()
            with pytest.raises(DeviceLostError):
                await scheduler.join()
    assert len(pipeline.failures) >= in_flight
    assert len({item for item, _ in pipeline.failures}) == len(pipeline.failures)
    assert all(isinstance(error, DeviceLostError) for _, error in pipeline.failures)
    assert isinstance(pipeline.closings[0], DeviceLostError)
    assert pipeline.results == []


def native_cancel(task: "asyncio.Task[Any]", scope: anyio.CancelScope) -> None:
    """Cancel as asyncio does."""
    task.cancel()


def scope_cancel(task: "asyncio.Task[Any]", scope: anyio.CancelScope) -> None:
    """Cancel as anyio does: again and again until the scope is left."""
    scope.cancel()


@both
@pytest.mark.parametrize("cancel", [native_cancel, scope_cancel])
async def test_cancelled_owner_leaves_nothing_on_the_device(
    kind: type[Scheduler], cancel: Callable[[Any, Any], None]
) -> None:
    """The block's end outlasts both kinds of cancellation until the device is done."""
    pipeline = Holdable([0, 1], held={0})
    scope = anyio.CancelScope()
    with open_device("cpu") as device:

        async def own() -> None:
            with scope:
                async with kind(pipeline, device):
                    await asyncio.get_running_loop().create_future()

        owner = asyncio.create_task(own())
        await until(lambda: pipeline.started[0].is_set())
        cancel(owner, scope)
        await until(lambda: pipeline.failures)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not owner.done(), "the device still uses the step's memory"
        cancel(owner, scope)  # an impatient caller
        pipeline.release_all()
        await asyncio.wait([owner])
        assert owner.cancelled() == (cancel is native_cancel)
        assert device.streams == ()
    assert pipeline.closings == [None]
    assert pipeline.results == []


@both
@pytest.mark.parametrize("stage", ["prepare", "forward", "publish"])
async def test_cancel_at_each_stage_ends_the_step_once(kind: type[Scheduler], stage: str) -> None:
    """A step suspended in any stage when the scheduler is torn down ends exactly once."""
    inside = asyncio.Event()

    class Suspends(Doubler):
        async def prepare(self, step: Step) -> int | None:
            item = await super().prepare(step)
            if item is not None:
                await self.hang("prepare")
            return item

        async def forward(self, step: Step, inputs: int) -> Any:
            output = await super().forward(step, inputs)
            await self.hang("forward")
            return output

        async def publish(self, step: Step, inputs: int, output: Any) -> None:
            await self.hang("publish")
            await super().publish(step, inputs, output)

        async def hang(self, here: str) -> None:
            if here == stage:
                inside.set()
                await asyncio.get_running_loop().create_future()

    pipeline = Suspends([5])

    async with kind(pipeline, "cpu") as scheduler:
        async with asyncio.timeout(20.0):
            await inside.wait()
        await scheduler.stop(drain=False)
    assert len(pipeline.failures) == 1
    assert isinstance(pipeline.failures[0][1], StepAbortedError)
    assert pipeline.results == []
    assert pipeline.closings == [None]


async def test_device_opened_by_name_is_closed_and_a_given_one_is_not() -> None:
    """The scheduler closes what it opened; streams are given back in both cases."""
    async with OverlapScheduler(Doubler(), "cpu") as scheduler:
        owned = scheduler.device
    assert owned.is_closed
    with open_device("cpu") as device:
        for name in ("", "other"):
            async with OverlapScheduler(Doubler(), device, name=name):
                prefix = f"{name}." if name else ""
                assert [s.name for s in device.streams] == [
                    prefix + part for part in ("schedule", "forward", "copy")
                ]
            assert device.streams == ()
        assert not device.is_closed


async def test_strict_refuses_device_calls_by_other_tasks() -> None:
    """In strict mode only the issuer enqueues: publish and outsiders are refused."""

    class EnqueuesInPublish(Doubler):
        async def publish(self, step: Step, inputs: int, output: Any) -> None:
            step.forward_stream.launch(print)

    pipeline = EnqueuesInPublish([1])
    async with OverlapScheduler(pipeline, "cpu", strict=True) as scheduler:
        await until(lambda: pipeline.failures)
        with pytest.raises(NotIssuerError, match="make it in prepare or forward"):
            scheduler.turns.streams[0].record("outsider")
    assert isinstance(pipeline.failures[0][1], NotIssuerError)


async def test_failed_hook_that_raises_does_not_hurt_other_steps(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A bug in ``failed`` is logged and the loop goes on."""

    class BadHook(Doubler):
        async def forward(self, step: Step, inputs: int) -> Any:
            if inputs == 0:
                raise ValueError("forward")
            return await super().forward(step, inputs)

        def failed(self, step: Step, inputs: int | None, error: BaseException) -> None:
            super().failed(step, inputs, error)
            raise KeyError("hook")

    pipeline = BadHook([0, 1])
    async with OverlapScheduler(pipeline, "cpu"), asyncio.timeout(20.0):
        await pipeline.all_ended.wait()
    assert pipeline.results == [2]
    assert "pipeline_failed_hook_raised" in caplog.text


@both
async def test_pipeline_can_end_its_scheduler_with_a_reason(kind: type[Scheduler]) -> None:
    """Its first reason counts; nothing is prepared any more, and the block raises it."""

    class Pointless(Doubler):
        async def prepare(self, step: Step) -> int | None:
            item = await super().prepare(step)
            if item == 1:
                assert self._scheduler is not None
                self._scheduler.fail(ConnectionError("the other ranks are gone"))
                self._scheduler.fail(ValueError("too late"))
            return item

    pipeline = Pointless([0, 1, 2])
    with pytest.raises(ConnectionError, match="the other ranks are gone"):
        async with asyncio.timeout(20.0), kind(pipeline, "cpu") as scheduler:
            await scheduler.join()
    assert list(pipeline.inbox) == [2]
    [error] = pipeline.closings
    assert isinstance(error, ConnectionError)
    with pytest.raises(SchedulerClosedError, match="the other ranks are gone"):
        scheduler.wake()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth=0 is below 1"),
        ({"wait_deadline_s": 0.0}, "wait_deadline_s=0.0 is not positive"),
        ({"stop_deadline_s": -1.0}, "stop_deadline_s=-1.0 is not positive"),
    ],
)
async def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    """A bad number is named with its value."""
    with pytest.raises(ValueError, match=message):
        OverlapScheduler(Doubler(), "cpu", **options)
