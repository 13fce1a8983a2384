"""Running a scenario over many schedules, until one shows that something is wrong."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from aio_sched.testing.compare import differs
from aio_sched.testing.errors import DeadlockError, LivelockError
from aio_sched.testing.finding import ExplorationError, Finding, name_of
from aio_sched.testing.schedule import STRATEGIES, CancelKind, Schedule, draw_schedule
from aio_sched.testing.shrink import shrink
from aio_sched.testing.trial import Outcome, Scenario, run_once

__all__ = [
    "Exploration",
    "ExplorationError",
    "Finding",
    "Judge",
    "assert_same_results",
    "explore",
    "judge_of",
]


@dataclass
class Exploration:
    """What was explored.

    Attributes:
        num_runs: schedules that were run.
        calls: how many different sequences of device calls they had.
        makespans_s: virtual seconds that each took.
        finding: what went wrong in the last of them; None if nothing did.
    """

    num_runs: int
    calls: frozenset[str]
    makespans_s: tuple[float, ...]
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
    check: bool = True,
    shrinks: int = 60,
    on_run: Callable[[Outcome], object] | None = None,
) -> Exploration:
    """Run a scenario under many schedules, and compare each run with one without overlap.

    A run goes wrong if the hazard checker reports something, if its result differs from that
    of the same scenario under ``SequentialScheduler``, if it raises what that did not, hangs,
    or leaves something behind. Stops at the first such run and makes it simpler.

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
        check: watch for hazards.
        shrinks: runs to spend at most on making a finding simpler.
        on_run: called after each run.

    Raises:
        ValueError: no strategy has this name.
        ExplorationError: the scenario goes wrong without any overlap.
    """
    schedules = _schedules(scenario, seeds, strategy, profiles)
    judge = judge_of(scenario, check=check)
    num_runs, calls, makespans_s = 0, set[str](), list[float]()
    for schedule in schedules:
        outcome = run_once(scenario, schedule, check=check)
        num_runs += 1
        calls.add(outcome.calls)
        makespans_s.append(outcome.makespan_s)
        if on_run is not None:
            on_run(outcome)
        if what := judge.complaints(outcome):
            finding = judge.simplest(outcome, what, check=check, max_runs=shrinks)
            return Exploration(num_runs, frozenset(calls), tuple(makespans_s), finding)
    return Exploration(num_runs, frozenset(calls), tuple(makespans_s))


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
    scenario: Scenario, seeds: Iterable[int], strategy: str, profiles: tuple[str, ...]
) -> Iterator[Schedule]:
    if strategy not in STRATEGIES:
        known = ", ".join(map(repr, STRATEGIES))
        raise ValueError(f"strategy {strategy!r} is unknown; use one of {known}")
    if strategy in ("random", "pct"):
        return (draw_schedule(seed, strategy, profiles=profiles) for seed in seeds)
    every = _each_cancel if strategy == "single_cancel" else _each_delay
    firsts = (draw_schedule(seed, "fifo", profiles=profiles) for seed in seeds)
    return itertools.chain.from_iterable(every(scenario, first) for first in firsts)


def _each_cancel(scenario: Scenario, first: Schedule) -> Iterator[Schedule]:
    num_points = run_once(scenario, first, check=False).num_points
    for kind in (CancelKind.NATIVE, CancelKind.ANYIO):
        for point in range(num_points):
            yield replace(first, cancel_at=point, cancel_kind=kind)


def _each_delay(scenario: Scenario, first: Schedule) -> Iterator[Schedule]:
    num_turns = len(run_once(scenario, first, check=False).choices)
    return (replace(first, order_name="delay", delay=step) for step in range(num_turns))


def judge_of(scenario: Scenario, *, check: bool = True) -> "Judge":
    """Run a scenario without overlap, and take what comes of it for right.

    Raises:
        ExplorationError: it goes wrong even so.
    """
    expected = run_once(scenario, Schedule(overlap=False), check=check)
    judge = Judge(scenario, expected)
    if what := judge.complaints(expected):
        raise ExplorationError(judge.finding(expected, what), 1)
    return judge


class Judge:
    """Knows what is right.

    Args:
        scenario: whose runs it judges.
        expected: a run that went right.
    """

    def __init__(self, scenario: Scenario, expected: Outcome) -> None:
        self._scenario = scenario
        self._expected = expected

    def complaints(self, outcome: Outcome) -> tuple[str, ...]:
        """Say what is wrong with a run."""
        return (
            *(str(report) for report in outcome.reports),
            *self._of_end(outcome),
            *outcome.left_behind,
        )

    def _of_end(self, outcome: Outcome) -> Iterator[str]:
        schedule, error = outcome.schedule, outcome.error
        is_disturbed = bool(schedule.faults) or schedule.cancel_at is not None
        if error is not None:
            if not (is_disturbed and _is_a_proper_end(error)):
                yield f"the scenario raised {error!r}"
        elif outcome.result is not None or not is_disturbed:
            difference = differs(self._expected.result, outcome.result, may_fail=is_disturbed)
            if difference is not None:
                yield f"{difference}, which is what comes without overlap"

    def simplest(
        self, outcome: Outcome, what: tuple[str, ...], *, check: bool, max_runs: int
    ) -> Finding:
        """Make a run that goes wrong simpler, as long as it goes wrong in the same way."""
        way = _way(outcome)

        def goes_wrong(schedule: Schedule) -> Outcome | None:
            again = run_once(self._scenario, schedule, check=check)
            return again if self.complaints(again) and _way(again) == way else None

        simpler, num_runs = shrink(outcome, goes_wrong, max_runs=max_runs)
        return self.finding(simpler, self.complaints(simpler) or what, num_runs)

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


def _is_a_proper_end(error: BaseException) -> bool:
    """Whether a run that was disturbed may end so: not by a deadlock, and not by our own bug."""
    return not isinstance(error, DeadlockError | LivelockError | AssertionError)


def _way(outcome: Outcome) -> object:
    """In which way a run went wrong; a simpler run must do so in the same way."""
    kinds = frozenset((report.kind, report.memory) for report in outcome.reports)
    return kinds or type(outcome.error)
