"""One turn of the loop: a step prepared and launched, and later published."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from aio_sched.barrier import WarBarrier
from aio_sched.config import SchedulerConfig
from aio_sched.errors import StageTypeError, StepAbortedError
from aio_sched.monitor import Monitors
from aio_sched.stage_run import run_stage
from aio_sched.stages import Pipeline, Step
from aio_sched.wakeup import Wakeup
from buffers.keep_alive import KeepAlive
from streams.clock import perf_s
from streams.current import WorkTag, work_tag
from streams.device import Device
from streams.errors import DeadlineError
from streams.guard import HostBlockGuard
from streams.hazards import handoff
from streams.log import get_logger
from streams.stream import Stream

__all__ = ["Launched", "Turns"]

log = get_logger("loop")


# Referred to weakly: ``handoff`` must not keep a step and its tensors.
@dataclass(slots=True, weakref_slot=True, eq=False)
class Launched:
    """A step on its way from prepare to the end of publish.

    Attributes:
        may_overlap: whether the step may share the device with its neighbours.
        is_cut_short: a stage was cancelled; ``error`` says so.
        is_delivered: publish has returned; what is left is the device's part.
    """

    step: Step
    inputs: Any = None
    output: Any = None
    error: BaseException | None = None
    may_overlap: bool = True
    is_cut_short: bool = False
    is_delivered: bool = False


@dataclass(eq=False)
class Turns:
    """Launches and publishes the steps of one pipeline on one device.

    Attributes:
        in_flight: launched and not yet published, oldest first.
        changed: set whenever a step was published or somebody has new work.
        woken: set with it for new work, and for a stop.
        must_back_off: the last prepare raised; see ``back_off``.
    """

    pipeline: Pipeline[Any, Any]
    device: Device
    config: SchedulerConfig
    barrier: WarBarrier
    streams: tuple[Stream, Stream, Stream]
    monitors: Monitors
    guard: HostBlockGuard
    keep_alive: KeepAlive = field(default_factory=KeepAlive)
    in_flight: deque[Launched] = field(default_factory=deque)
    changed: Wakeup = field(default_factory=Wakeup)
    woken: Wakeup = field(default_factory=Wakeup)
    num_steps: int = 0
    num_failed: int = 0
    must_back_off: bool = False
    _num_futile: int = 0

    async def launch_next(self) -> Launched | None:
        """Prepare and forward the next step; None if there is nothing to do.

        Enqueues prepare's work on the schedule stream, forward's on the forward
        stream behind it, and then the WAR barrier. A stage that raises fails the
        step, which takes its turn to be published as a failed one.
        """
        self.changed.clear()
        launched = Launched(self._new_step())
        try:
            await self._enqueue(launched)
        except Exception as error:
            launched.error = error
            if self.device.lost is not None:
                raise self.device.lost_error() from error
        except BaseException as error:
            launched.error = StepAbortedError(f"{launched.step} was cut short by {error!r}")
            launched.error.__cause__ = error
            launched.is_cut_short = True
            raise
        finally:
            has_work = launched.inputs is not None or launched.error is not None
            if has_work:
                self._commit(launched)
        if has_work:
            return launched
        self._num_futile = 0
        await self._end_idle(launched.step)
        return None

    async def publish(self, launched: Launched) -> None:
        """Publish the oldest step in flight, and wait until it has left the device.

        Raises:
            DeadlineError: the device took longer than ``wait_deadline_s``.
            DeviceLostError: the device failed for good.
        """
        handoff(launched)
        step, error = launched.step, launched.error
        step.begin_wait()
        if error is None:
            error = await self._deliver(launched)
        try:
            error = await self._left_device(step) or error
        except DeadlineError as late:
            # Publish met the deadline before this wait did: its error has the true times.
            raise error if isinstance(error, DeadlineError) else late from None
        if not self.in_flight or self.in_flight[0] is not launched:
            return  # the scheduler was stopped meanwhile, and has ended this step
        self.in_flight.popleft()
        self.keep_alive.collect()
        if error is not None:
            self.fail(launched, error)
        self.monitors.published(step.index, perf_s())
        self.changed.set()

    def fail(self, launched: Launched, error: BaseException) -> None:
        """Tell the pipeline that a step failed."""
        self.num_failed += 1
        # Else the error's frames and this step would keep each other, and tensors, alive.
        launched.error = None
        self.monitors.failed(launched.step.index, error)
        try:
            self.pipeline.failed(launched.step, launched.inputs, error)
        except Exception:
            # The other steps' requests must not suffer for it; but it is a bug.
            log.exception("pipeline_failed_hook_raised", step=launched.step.index)

    def wake(self) -> None:
        """Let the issuer look again."""
        self.changed.set()
        self.woken.set()

    def state(self, name: str) -> None:
        """Note what the issuer does from now on."""
        self.monitors.state(name, perf_s())

    async def rest(self, name: str) -> None:
        """Sleep until a step was published or somebody has new work."""
        self.state(name)
        await self.changed.wait()

    async def all_published(self) -> None:
        """Sleep until nothing is in flight."""
        self.state("room")
        while self.in_flight:
            await self.changed.wait()

    async def back_off(self) -> None:
        """Keep a prepare that always raises from spinning: 1 ms, doubling, up to 1 s.

        A wake-up ends the pause, since what it announces may be what was missing; one
        given during the failing prepare does not, or a prepare that wakes would spin.
        """
        self.must_back_off = False
        self.woken.clear()
        self.state("idle")
        try:
            async with asyncio.timeout(min(1.0, 0.001 * 2 ** min(self._num_futile - 1, 10))):
                await self.woken.wait()
        except TimeoutError:
            return

    # One step ---------------------------------------------------------------

    def _new_step(self) -> Step:
        return Step(
            self.num_steps,
            rotation=self.num_steps % self.config.depth,
            streams=self.streams,
            barrier=self.barrier,
            keep_alive=self.keep_alive,
            deadline_s=self.config.wait_deadline_s,
        )

    async def _enqueue(self, launched: Launched) -> None:
        step = launched.step
        schedule_stream, forward_stream, _ = self.streams
        prepare = self.pipeline.prepare(step)
        self.state("prepare")
        launched.inputs = await self._stage(step, "prepare", prepare, schedule_stream)
        if launched.inputs is None:
            return
        launched.may_overlap = getattr(launched.inputs, "overlap", True) is not False
        if not launched.may_overlap:
            await self.all_published()
        # RAW: forward(n) reads what prepare(n) writes on the schedule stream.
        forward_stream.wait_stream(schedule_stream)
        forward = self.pipeline.forward(step, launched.inputs)
        self.state("forward")
        launched.output = await self._stage(step, "forward", forward, forward_stream)
        if launched.output is None:
            raise StageTypeError(
                "forward returned None; return what publish needs, step.copy_to_host(...) as a rule"
            )

    def _commit(self, launched: Launched) -> None:
        """Count the step as in flight; no await, so no half-launched step."""
        self.num_steps += 1
        self.must_back_off = launched.error is not None and launched.inputs is None
        self._num_futile = self._num_futile + 1 if self.must_back_off else 0
        handoff(launched)
        self.in_flight.append(launched)
        former = work_tag.set(WorkTag(launched.step.index, "forward"))
        try:
            launched.step.seal(is_whole=launched.error is None)
            self.barrier.apply(launched.step)
        finally:
            work_tag.reset(former)

    async def _end_idle(self, step: Step) -> None:
        """End a step whose prepare found nothing to do, but may have enqueued something."""
        self.pipeline.idled(step)
        if step.has_device_work:
            await step.seal(is_whole=False).reached(self.config.wait_deadline_s)
            self.keep_alive.collect()

    async def _deliver(self, launched: Launched) -> BaseException | None:
        publish = self.pipeline.publish(launched.step, launched.inputs, launched.output)
        try:
            result = await self._stage(launched.step, "publish", publish, None)
        except Exception as error:
            if self.device.lost is not None:
                raise self.device.lost_error() from error
            return error
        launched.is_delivered = True
        if result is not None:
            return StageTypeError(
                f"publish returned {type(result).__name__}; it delivers, and returns nothing"
            )
        return None

    async def _left_device(self, step: Step) -> BaseException | None:
        assert step.copy_done is not None, "a step is sealed before it is published"
        await step.copy_done.reached(step.left_s)
        try:
            step.raise_failure()
        except Exception as error:
            return error
        return None

    async def _stage(self, step: Step, stage: str, coro: Any, stream: Stream | None) -> Any:
        return await run_stage(step.index, stage, coro, stream, self.monitors, self.guard)
