"""One run of a scenario, on a simulated device in virtual time, and what came of it."""

import asyncio
import inspect
import random
import signal
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from typing import Any, Unpack

import anyio

from aio_sched.config import SchedulerOptions
from aio_sched.lifecycle import Scheduler
from aio_sched.loop import OverlapScheduler, SequentialScheduler
from aio_sched.monitor import SchedulerMonitor
from aio_sched.stages import Pipeline
from aio_sched.testing.await_points import AwaitPoints
from aio_sched.testing.calls import CallLog
from aio_sched.testing.outcome import Outcome
from aio_sched.testing.run import virtual_run
from aio_sched.testing.schedule import CancelKind, Schedule
from aio_sched.trace import TraceRecorder
from streams.clock import monotonic_ns
from streams.device import Device, open_device
from streams.hazards import HazardChecker
from streams.simulated import Fault, FaultKind, FaultPlan

__all__ = ["Scenario", "Trial", "run_once"]

Scenario = Callable[["Trial"], Awaitable[Any]]
"""What is explored: a coroutine function that runs pipelines and returns their results."""


class Trial:
    """What a scenario is given: a device, and schedulers that are to be used with it.

    Attributes:
        device: a simulated device; the trial closes it.
        devices: all of them; see ``another_device``.
        overlap: False in the run that says what is right: nothing overlaps there.
        dice: random numbers of the scenario's own, the same ones in every run.
    """

    def __init__(
        self, open_next: Callable[[int], Device], *, overlap: bool, points: AwaitPoints
    ) -> None:
        self._open_next = open_next
        self.devices: list[Device] = []
        self.device = self.another_device()
        self.overlap = overlap
        self.dice = random.Random(0)
        self.recorder = TraceRecorder()
        self.failures = _Failures()
        self._points = points
        self._checks: list[Callable[[], object]] = []

    def another_device(self) -> Device:
        """Open one more simulated device, for another rank; the trial closes it.

        It shares the clock, the faults, the hazard checker and the profile; the trace is of
        the first one.
        """
        device = self._open_next(len(self.devices))
        self.devices.append(device)
        return device

    def scheduler(
        self,
        pipeline: Pipeline[Any, Any],
        device: Device | None = None,
        **options: Unpack[SchedulerOptions],
    ) -> Scheduler:
        """Return the scheduler to run ``pipeline`` with, to be used in ``async with``.

        Args:
            pipeline: a fresh one.
            device: one of ``devices``; the first by default.
            options: the scheduler's.
        """
        self.watch(pipeline)
        kind = OverlapScheduler if self.overlap else SequentialScheduler
        options["monitors"] = (*options.get("monitors", ()), self.recorder, self.failures)
        return kind(pipeline, device or self.device, **options)

    def watch(self, pipeline: Pipeline[Any, Any]) -> None:
        """Let the await points of a pipeline's stages be among those where a run is cut short.

        ``scheduler`` does this; for pipelines that something else runs, an ``Engine`` for one.
        """
        self._points.watch(pipeline)

    def aim(self, cancel: Callable[[], object]) -> None:
        """Let the run be cut short by ``cancel`` from now on, instead of at the scenario.

        For cutting off a part of it: one reader, or one of a scheduler's tasks.
        """
        self._points.cancel = cancel

    def counted(self, work: Awaitable[Any]) -> Any:
        """Return a coroutine that does ``work``, whose await points are counted too.

        For tasks that the scenario starts.
        """
        return self._points.counted(work)

    def at_rest(self, check: Callable[[], object]) -> None:
        """Call ``check`` when the scenario has ended, however it did.

        Args:
            check: raises, or returns False, if something was left behind.
        """
        self._checks.append(check)

    def left_behind(self) -> list[str]:
        """Run the checks; return what they complain of."""
        complaints = []
        for check in self._checks:
            try:
                if check() is False:
                    complaints.append(f"{getattr(check, '__qualname__', check)} returned False")
            except Exception as error:
                complaints.append(f"{getattr(check, '__qualname__', check)} raised {error!r}")
        return complaints


def run_once(
    scenario: Scenario,
    schedule: Schedule,
    *,
    check: bool = True,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    max_steps: int = 200_000,
) -> Outcome:
    """Run a scenario once, in virtual time.

    Args:
        scenario: what to run.
        schedule: how.
        check: watch for hazards.
        loop_factory: another loop to run on, ``asyncio.new_event_loop`` for one. The order of
            tasks is that loop's then, and only the device's time is virtual.
        max_steps: turns of the loop before it is taken for a livelock.

    Raises:
        TypeError: the scenario is no coroutine function of a trial.
    """
    _check(scenario)
    outcome = Outcome(schedule)
    order = schedule.order()
    is_strict = schedule.is_strict and loop_factory is None
    checker = HazardChecker(strict=is_strict) if check else None
    run = _Run(scenario, schedule, checker, outcome)
    try:
        if loop_factory is None:
            observers = (checker.observer(),) if checker is not None and is_strict else ()
            virtual_run(
                run.main(),
                seed=schedule.seed,
                max_steps=max_steps,
                strategy=order,
                observers=observers,
            )
        else:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(run.main())
    except (Exception, asyncio.CancelledError) as error:
        outcome.error = error
    outcome.left_behind += run.complaints
    if checker is not None:
        outcome.reports = checker.reports
    outcome.choices = tuple(run.choices())
    outcome.num_steps = run.num_steps()
    return outcome


def _check(scenario: Scenario) -> None:
    if isinstance(scenario, type) or not callable(scenario):
        raise TypeError(
            f"scenario {scenario!r} is not a function; write 'async def scenario(trial)', make the "
            "pipeline on trial.device there and run it in trial.scheduler(pipeline)"
        )


class _Run:
    def __init__(
        self,
        scenario: Scenario,
        schedule: Schedule,
        checker: HazardChecker | None,
        outcome: Outcome,
    ) -> None:
        self._scenario = scenario
        self._schedule = schedule
        self._checker = checker
        self._outcome = outcome
        self._loop: Any = None
        self.complaints: list[str] = []

    def choices(self) -> Any:
        return getattr(self._loop, "choices", ())

    def num_steps(self) -> int:
        return getattr(self._loop, "num_steps", 0)

    async def main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._report)
        schedule, plan = self._schedule, _TimedPlan(self._schedule.faults)
        calls, points = CallLog(), AwaitPoints(schedule.cancel_at)
        with ExitStack() as stack:

            def open_next(number: int) -> Device:
                seed = schedule.seed + number
                device = open_device("sim", seed=seed, profile=schedule.profile, faults=plan)
                device.add_monitor(calls)
                if self._checker is not None:
                    device.add_monitor(self._checker)
                return stack.enter_context(device)

            trial = Trial(open_next, overlap=schedule.overlap, points=points)
            trial.device.add_monitor(trial.recorder)
            try:
                await self._drive(trial, points)
            finally:
                outcome = self._outcome
                outcome.makespan_s = self._loop.time()
                outcome.calls, outcome.num_calls = calls.digest, len(calls.calls)
                outcome.failures = trial.failures.all
                outcome.num_points = points.num_passed
                outcome.recorder = trial.recorder
                outcome.unfired = plan.unfired
                outcome.struck_s = tuple(plan.struck_s)
                outcome.is_cut = points.is_reached
                outcome.left_behind = [*_tasks_left(), *trial.left_behind()]

    async def _drive(self, trial: Trial, points: AwaitPoints) -> None:
        work = self._scenario(trial)
        if not inspect.isawaitable(work):
            raise TypeError(
                f"the scenario returned {type(work).__name__}; write 'async def scenario(trial)'"
            )
        driving = points.counted(work)
        if self._schedule.cancel_at is None:
            self._outcome.result = await driving
        elif self._schedule.cancel_kind is CancelKind.NATIVE:
            task = asyncio.ensure_future(driving)
            points.cancel = task.cancel
            await asyncio.wait([task])
            self._outcome.is_cancelled = task.cancelled()
            if not task.cancelled():
                self._outcome.result = task.result()
        elif self._schedule.cancel_kind is CancelKind.ANYIO:
            await self._drive_in_scope(driving, points)
        else:
            points.cancel = self._terminate
            self._outcome.result = await driving

    async def _drive_in_scope(self, driving: Any, points: AwaitPoints) -> None:
        scope = anyio.CancelScope()
        points.cancel = scope.cancel
        try:
            with scope:
                self._outcome.result = await driving
            self._outcome.is_cancelled = scope.cancelled_caught
        except asyncio.CancelledError:
            self._outcome.is_cancelled = True
            # asyncio.gather raises one of its own, in which anyio does not recognise its own.
            if not scope.cancel_called:
                raise

    def _terminate(self) -> None:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # it would end this process
            self.complaints.append(
                "nothing handled SIGTERM when it was to come; handle it before the first await"
            )
        else:
            signal.raise_signal(signal.SIGTERM)

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.complaints.append(f"the event loop was told of {context!r}")


class _Failures(SchedulerMonitor):
    """Notes which steps failed."""

    def __init__(self) -> None:
        self.all: list[tuple[int, BaseException]] = []

    def failed(self, step: int, error: BaseException) -> None:
        self.all.append((step, error))


class _TimedPlan(FaultPlan):
    """Notes when each fault strikes."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        super().__init__(faults)
        self.struck_s: list[tuple[Fault, float]] = []

    def activate(self, faults: Iterable[Fault], *kinds: FaultKind) -> Fault | None:
        struck = super().activate(faults, *kinds)
        if struck is not None:
            self.struck_s.append((struck, monotonic_ns() / 1e9))
        return struck


def _tasks_left() -> list[str]:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    return [f"task {task.get_name()!r} still runs" for task in left if not task.done()]
