"""What every scheduler shares: start, wake, stop, and the end of what it ran."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from aio_sched.barrier import WarBarrier
from aio_sched.claim import check_stages, claim
from aio_sched.config import SchedulerConfig
from aio_sched.ending import Ending
from aio_sched.errors import SchedulerClosedError
from aio_sched.loop_lag import LoopLagMonitor
from aio_sched.metrics import SchedulerStats, StatsCollector
from aio_sched.monitor import Monitors, SchedulerMonitor
from aio_sched.stages import Pipeline
from aio_sched.turn import Turns
from aio_sched.uninterrupted import uninterrupted
from streams.device import Device, open_device
from streams.errors import DeviceLostError
from streams.guard import HostBlockGuard
from streams.hazards import HazardChecker, HazardError, Report
from streams.log import get_logger
from streams.monitor import DeviceMonitor
from streams.stream import Stream

__all__ = ["Scheduler"]

log = get_logger("scheduler")


class Scheduler(ABC):
    """Runs one pipeline on one device, inside ``async with``.

    Args:
        pipeline: what to run; one scheduler at a time may run it.
        device: an open device, which stays open, or the name of one to open.
        depth: steps that may be in flight at most.
        war_barrier: see ``SchedulerConfig``.
        strict: errors instead of counts for host blocking and foreign device calls, and a
            ``HazardChecker`` on the device; accesses that it finds unordered are logged at
            once, and raised when the block is left.
        wait_deadline_s: seconds the device may take for a step's results.
        stop_deadline_s: seconds that stopping may take.
        name: prefix of the stream names, for several schedulers on one device.
        monitors: told of stages and states (``TraceRecorder``, for one), and of the
            device if they are ``DeviceMonitor`` too.
        loop_lag: a running monitor whose summary ``stats`` shall have.

    Attributes:
        guard: counts calls of the stages that block the loop's thread on the device.
        hazards: the hazard checker of a strict scheduler, None otherwise.
        is_stopping: no further step is prepared.
        is_aborting: no further step is published either.

    Leaving the block stops the scheduler: with a drain after a normal end, without
    one after an error or a cancellation. It raises what stopped the scheduler, if
    that was not ``stop``.
    """

    def __init__(
        self,
        pipeline: Pipeline[Any, Any],
        device: Device | str = "auto",
        *,
        depth: int = 2,
        war_barrier: str | None = None,
        strict: bool = False,
        wait_deadline_s: float | None = 60.0,
        stop_deadline_s: float = 30.0,
        name: str = "",
        monitors: tuple[SchedulerMonitor, ...] = (),
        loop_lag: LoopLagMonitor | None = None,
    ) -> None:
        check_stages(pipeline)
        self.pipeline = pipeline
        self.config = SchedulerConfig(
            depth, war_barrier, strict, wait_deadline_s, stop_deadline_s, name
        )
        self.guard = HostBlockGuard(strict=strict)
        self.hazards = HazardChecker(on_report=_log_hazard) if strict else None
        self.monitors = monitors
        self.loop_lag = loop_lag
        self.is_stopping = False
        self.is_aborting = False
        self._device = device
        self._owns_device = isinstance(device, str)
        self._turns: Turns | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._fatal: BaseException | None = None
        self._closing: asyncio.Task[None] | None = None
        self._stats = StatsCollector()

    def __repr__(self) -> str:
        if self._turns is None:
            return f"<{type(self).__name__} not started>"
        state = "stopped" if self._is_closed else "stopping" if self.is_stopping else "running"
        return (
            f"<{type(self).__name__} {state}: step {self.turns.num_steps}, "
            f"{len(self.turns.in_flight)} in flight, {self.turns.barrier.policy.value}>"
        )

    @property
    def turns(self) -> Turns:
        """The steps under way.

        Raises:
            SchedulerClosedError: the scheduler was not started.
        """
        if self._turns is None:
            raise SchedulerClosedError(
                f"{type(self).__name__} was not started; use it in 'async with'"
            )
        return self._turns

    @property
    def device(self) -> Device:
        """The device that it runs on, once started."""
        return self.turns.device

    @property
    def stats(self) -> SchedulerStats:
        """What it has achieved so far, or until it stopped."""
        self.turns  # noqa: B018 - raises if not started
        lag = None if self.loop_lag is None else self.loop_lag.summary()
        return self._stats.snapshot(loop_lag=lag)

    async def __aenter__(self) -> Self:
        if self._turns is not None:
            raise SchedulerClosedError(f"{self!r} was started before; make another")
        claim(self.pipeline, self)
        try:
            self._turns = self._open()
        except BaseException:
            self.pipeline._scheduler = None
            raise
        self._spawn(self._issue(), "issuer")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop(drain=exc is None)
        if exc is not None:
            return
        if self._fatal is not None:
            raise self._fatal
        if unordered := self._unordered():
            raise HazardError(unordered)

    def wake(self) -> None:
        """Say that prepare may find work now; call it on the loop's thread.

        From another thread: ``loop.call_soon_threadsafe(scheduler.wake)``. A wake-up
        is never lost: one given while prepare runs makes it run again.

        Raises:
            SchedulerClosedError: nothing will be prepared any more.
        """
        if self.is_stopping:
            raise SchedulerClosedError(
                f"{self!r} takes no more work" + (f": {self._fatal!r}" if self._fatal else "")
            )
        self.turns.wake()

    def request_stop(self) -> None:
        """Begin no further step; what is in flight is published. Does not wait."""
        self.is_stopping = True
        self.turns.wake()

    def fail(self, error: BaseException) -> None:
        """Stop because of ``error``, which every step and request gets; does not wait.

        For what makes any further step pointless. Only the first error counts.
        """
        if self._fatal is not None:
            return
        self._fatal = error
        self.is_stopping = True
        log.error("scheduler_failed", error=repr(error))
        self._close(drain=False)

    async def stop(self, *, drain: bool = True) -> None:
        """Stop, and wait until nothing of this scheduler is on the device.

        Runs to its end even if the caller is cancelled meanwhile. Every step ends:
        published, or given to ``Pipeline.failed``. Requests that no step has taken are
        left to ``Pipeline.closed``.

        Args:
            drain: publish what is in flight; otherwise it fails with
                ``StepAbortedError`` (its device work runs out all the same).

        Raises:
            SchedulerClosedError: not started, or called from one of its own stages;
                use ``request_stop`` there.
            DeadlineError: the device still works after ``stop_deadline_s``.
        """
        self.turns  # noqa: B018 - raises if not started
        if asyncio.current_task() in self._tasks:
            raise SchedulerClosedError(
                "stop() in a stage would wait for itself; call request_stop()"
            )
        self.request_stop()
        self._close(drain)
        assert self._closing is not None, "just set"
        await uninterrupted(self._closing)

    async def join(self) -> None:
        """Wait until the scheduler has stopped, and raise what stopped it, if anything."""
        self.turns  # noqa: B018 - raises if not started
        await asyncio.wait(self._tasks[:1])
        if self._fatal is not None:
            raise self._fatal

    @abstractmethod
    async def _run(self) -> None:
        """Launch steps until ``is_stopping``; return when all are published."""

    # Starting ---------------------------------------------------------------

    def _open(self) -> Turns:
        device = open_device(self._device) if isinstance(self._device, str) else self._device
        opened: list[Stream] = []
        try:
            barrier = self._barrier(device)
            prefix = f"{self.config.name}." if self.config.name else ""
            for name in ("schedule", "forward", "copy"):
                opened.append(device.stream(prefix + name))  # noqa: PERF401 - closed below
        except BaseException:
            for stream in opened:
                stream.close()
            if self._owns_device:
                device.close()
            raise
        schedule, forward, copy = opened
        self._stats = StatsCollector(forward.name, is_measured=device.capabilities.device_timing)
        self._watch(device)
        return Turns(
            self.pipeline,
            device,
            self.config,
            barrier,
            (schedule, forward, copy),
            Monitors((self._stats, *self.monitors)),
            self.guard,
        )

    def _barrier(self, device: Device) -> WarBarrier:
        setting, asked_by = self.config.barrier_setting()
        barrier = WarBarrier.resolve(
            setting,
            asked_by,
            platform=device.platform,
            table_copies=self.pipeline.table_copies,
            depth=self.config.depth,
        )
        log.info(
            "scheduler_started",
            kind=type(self).__name__,
            device=device.name,
            depth=self.config.depth,
            war_barrier=barrier.policy.value,
            war_barrier_reason=barrier.reason,
        )
        return barrier

    def _watch(self, device: Device) -> None:
        for monitor in self._device_monitors():
            device.add_monitor(monitor)

    def _device_monitors(self) -> list[DeviceMonitor]:
        watching = (self._stats, self.hazards, *self.monitors)
        return [monitor for monitor in watching if isinstance(monitor, DeviceMonitor)]

    def _unordered(self) -> list[Report]:
        """Return what nothing has raised yet: a misuse was an error where it happened."""
        reports = [] if self.hazards is None else self.hazards.reports
        return [report for report in reports if report.later is not None]

    def _spawn(self, coro: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(coro, name=f"aio-sched-{name}")
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    async def _issue(self) -> None:
        """Be the one task that makes this scheduler's device calls."""
        owned = (*self.turns.streams, *self.pipeline.streams)
        if self.config.strict:
            for stream in owned:
                stream.issuer = asyncio.current_task()
        try:
            with self.guard.watch():
                await self._run()
        finally:
            for stream in owned:
                stream.issuer = None

    # Stopping ---------------------------------------------------------------

    @property
    def _is_closed(self) -> bool:
        return self._closing is not None and self._closing.done()

    def _close(self, drain: bool) -> None:
        """Begin the end, or hurry it."""
        if self._closing is None:
            ending = Ending(self.turns, self._tasks, self._owns_device, self._abort)
            self._closing = asyncio.create_task(self._end(ending, drain), name="aio-sched-close")
        elif not drain:
            self._abort()

    def _abort(self) -> None:
        self.is_aborting = True
        for task in self._tasks:
            task.cancel()

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        """Stop everything if a task ended that should not have."""
        if task.cancelled():
            error: BaseException | None = None
            if self._closing is None:
                error = SchedulerClosedError(f"task {task.get_name()!r} was cancelled from outside")
        else:
            error = task.exception()
        if error is not None:
            self.fail(error)

    async def _end(self, ending: Ending, drain: bool) -> None:
        try:
            await ending.stop_tasks(drain)
            ending.fail_rest(lambda: self._fatal)
            await ending.run_dry(self._fatal)
        except DeviceLostError as error:
            self._fatal = self._fatal or error
        finally:
            self.turns.state("stopped")
            for monitor in self._device_monitors():
                self.device.remove_monitor(monitor)
            self.pipeline._scheduler = None
            self.pipeline.closed(self._fatal)


def _log_hazard(report: Report) -> None:
    log.error("hazard", report=str(report))
