"""Running a scenario over many schedules, until one shows that something is wrong."""

import asyncio
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from aio_sched.testing.compare import differs
from aio_sched.testing.errors import DeadlockError, LivelockError
from aio_sched.testing.finding import ExplorationError, Finding, name_of
from aio_sched.testing.outcome import Outcome
from aio_sched.testing.schedule import STRATEGIES, CancelKind, Schedule, draw_schedule
from aio_sched.testing.shrink import shrink
from aio_sched.testing.trial import Scenario, run_once

__all__ = [
    "Exploration",
    "ExplorationError",
    "Finding",
    "Judge",
    "assert_same_results",
    "explore",
    "judge_of",
]


Run = Callable[[Schedule], Outcome]


@dataclass
class Exploration:
    """What was explored.

    Attributes:
        num_runs: schedules that were run.
        calls: how many different sequences of device calls they had.
        makespans_s: virtual seconds that each took.
        num_calls: device calls of all runs; without any, nothing was checked but results.
        finding: what went wrong in the last of them; None if nothing did.
    """

    num_runs: int
    calls: frozenset[str]
    makespans_s: tuple[float, ...]
    num_calls: int = 0
    finding: Finding | None = None

    def raise_if_any(self) -> None:
        """Raise the finding.

        Raises:
            ExplorationError: there is one.
        """
        if self.finding is not None:
            raise ExplorationError(self.finding, self.num_runs)


def explore(
    scenario: Scenario,
    *,
    seeds: Iterable[int] = range(100),
    strategy: str = "random",
    profiles: tuple[str, ...] = (),
    strict: bool | None = None,
    check: bool = True,
    shrinks: int = 60,
    max_steps: int = 200_000,
    on_run: Callable[[Outcome], object] | None = None,
) -> Exploration:
    """Run a scenario under many schedules, and compare each run with one without overlap.

    A run goes wrong if the hazard checker reports something, if its result differs from that
    of the same scenario under ``SequentialScheduler``, if it raises what that did not, hangs,
    leaves something behind, or has a step that fails. Stops at the first such run and makes
    it simpler.

    Args:
        scenario: see ``Trial``. It must build everything anew each time, and decide by its
            arguments alone: a replay is the same run.
        seeds: one run each; for ``"single_cancel"`` and ``"delay_one"`` one exhaustive
            pass each, at every await point or task step.
        strategy: ``"random"`` shuffles the tasks that are ready, ``"pct"`` gives them
            priorities that change at a few moments, ``"single_cancel"`` cancels the scenario at
            each of its await points, natively and by anyio, ``"delay_one"`` puts off one
            task step.
        profiles: of the simulated device, to draw from; all by default.
        strict: whether the hazard checker keeps a clock per task, see ``HazardChecker``; None
            does so in half of the runs.
        check: watch for hazards.
        shrinks: runs to spend at most on making a finding simpler.
        max_steps: turns of the loop before a run is taken for a livelock.
        on_run: called after each run.

    Raises:
        ValueError: no strategy has this name, or there are no seeds.
        TypeError: the scenario is no coroutine function of a trial.
        ExplorationError: the scenario goes wrong without any overlap.
    """
    run = partial(run_once, scenario, check=check, max_steps=max_steps)
    judge = judge_of(scenario, run)
    schedules = _schedules(run, tuple(seeds), strategy, profiles, strict)
    num_runs, num_calls, calls, makespans_s = 0, 0, set[str](), list[float]()
    for schedule in schedules:
        outcome = run(schedule)
        num_runs += 1
        num_calls += outcome.num_calls
        calls.add(outcome.calls)
        makespans_s.append(outcome.makespan_s)
        if on_run is not None:
            on_run(outcome)
        if what := judge.complaints(outcome):
            finding = judge.simplest(outcome, what, max_runs=shrinks)
            return Exploration(num_runs, frozenset(calls), tuple(makespans_s), num_calls, finding)
    return Exploration(num_runs, frozenset(calls), tuple(makespans_s), num_calls)


def assert_same_results(
    scenario: Scenario, *, seeds: Iterable[int] = range(50), **options: Any
) -> Exploration:
    """Explore a scenario, and raise if a run goes wrong; see ``explore``.

    Raises:
        ExplorationError: one does.
    """
    explored = explore(scenario, seeds=seeds, **options)
    explored.raise_if_any()
    return explored


def _schedules(
    run: Run, seeds: tuple[int, ...], strategy: str, profiles: tuple[str, ...], strict: bool | None
) -> Iterator[Schedule]:
    if strategy not in STRATEGIES:
        known = ", ".join(map(repr, STRATEGIES))
        raise ValueError(f"strategy {strategy!r} is unknown; use one of {known}")
    if not seeds:
        raise ValueError("seeds is empty, and no run shows nothing; give at least one seed")
    draw = partial(draw_schedule, profiles=profiles, strict=strict)
    if strategy == "random":
        return (draw(seed, "random") for seed in seeds)
    if strategy == "pct":
        num_steps = max(1, run(Schedule()).num_steps)
        return (draw(seed, "pct", num_steps=num_steps) for seed in seeds)
    every = _each_cancel if strategy == "single_cancel" else _each_delay
    return itertools.chain.from_iterable(every(run, draw(seed, "fifo")) for seed in seeds)


def _each_cancel(run: Run, first: Schedule) -> Iterator[Schedule]:
    num_points = run(first).num_points
    for kind in (CancelKind.NATIVE, CancelKind.ANYIO):
        for point in range(num_points):
            yield replace(first, cancel_at=point, cancel_kind=kind)


def _each_delay(run: Run, first: Schedule) -> Iterator[Schedule]:
    num_steps = run(first).num_steps
    return (replace(first, order_name="delay", delay=step) for step in range(num_steps))


def judge_of(scenario: Scenario, run: Run | None = None) -> "Judge":
    """Run a scenario without overlap, and take what comes of it for right.

    Args:
        scenario: whose runs are to be judged.
        run: runs it under a schedule; ``run_once`` by default.

    Raises:
        ExplorationError: it goes wrong even so.
    """
    run = run or partial(run_once, scenario)
    expected = run(Schedule(overlap=False))
    judge = Judge(scenario, run, expected)
    if what := judge.complaints(expected):
        raise ExplorationError(judge.finding(expected, what), 1)
    return judge


class Judge:
    """Knows what is right.

    Args:
        scenario: whose runs it judges.
        run: runs it again, for a simpler run that goes wrong.
        expected: a run that went right.
    """

    def __init__(self, scenario: Scenario, run: Run, expected: Outcome) -> None:
        self._scenario = scenario
        self._run = run
        self._expected = expected

    def complaints(self, outcome: Outcome) -> tuple[str, ...]:
        """Say what is wrong with a run."""
        return (
            *(str(report) for report in outcome.reports),
            *self._of_end(outcome),
            *outcome.left_behind,
            *self._of_steps(outcome),
        )

    def _of_end(self, outcome: Outcome) -> Iterator[str]:
        is_disturbed = _is_disturbed(outcome)
        if outcome.error is not None:
            if not _may_raise(outcome):
                yield f"the scenario raised {type(outcome.error).__name__}: {outcome.error}"
        elif not outcome.is_cancelled:
            difference = differs(self._expected.result, outcome.result, may_fail=is_disturbed)
            if difference is not None:
                yield f"{difference}, which is what comes without overlap"

    def _of_steps(self, outcome: Outcome) -> Iterator[str]:
        if not _is_disturbed(outcome) and outcome.error is None:
            known = {type(error) for _, error in self._expected.failures}
            for step, error in outcome.failures:
                if type(error) not in known:
                    yield f"step {step} failed by {error!r}, which no step did without overlap"

    def simplest(self, outcome: Outcome, what: tuple[str, ...], *, max_runs: int) -> Finding:
        """Make a run that goes wrong simpler, as long as it goes wrong in the same way."""
        way = self._way(outcome)

        def goes_wrong(schedule: Schedule) -> Outcome | None:
            again = self._run(schedule)
            return again if self._way(again) >= way else None

        simpler, num_runs = shrink(outcome, goes_wrong, max_runs=max_runs)
        return self.finding(simpler, self.complaints(simpler) or what, num_runs)

    def _way(self, outcome: Outcome) -> frozenset[object]:
        """In which way a run went wrong; a simpler run must do so in the same way, at least."""
        error = outcome.error
        return frozenset(
            (
                *((report.kind, report.memory) for report in outcome.reports),
                *((type(error), _without_numbers(str(error))) for _ in self._of_end(outcome)),
                *("left behind" for _ in outcome.left_behind),
                *("failed steps" for _ in self._of_steps(outcome)),
            )
        )

    def finding(self, outcome: Outcome, what: tuple[str, ...], num_runs: int = 0) -> Finding:
        """Describe a run that goes wrong."""
        return Finding(
            what,
            outcome.schedule,
            outcome,
            tuple(outcome.reports),
            name_of(self._scenario),
            num_runs,
        )


def _is_disturbed(outcome: Outcome) -> bool:
    return bool(outcome.schedule.faults) or outcome.schedule.cancel_at is not None


def _may_raise(outcome: Outcome) -> bool:
    """Whether a run that was disturbed may end by this error."""
    if outcome.schedule.faults:  # the fault's, or one that it caused; no hang, no bug of ours
        return not isinstance(outcome.error, DeadlockError | LivelockError | AssertionError)
    return outcome.is_cut and isinstance(outcome.error, asyncio.CancelledError)


def _without_numbers(text: str) -> str:
    """Leave out what is another one in each run: times, addresses, task numbers."""
    return re.sub(r"0x[0-9a-f]+|[0-9]+", "#", text.partition("\n")[0])
