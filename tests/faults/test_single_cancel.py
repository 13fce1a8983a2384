"""A cancellation at every await point of each scenario, both kinds, three event loops."""

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import uvloop

from aio_sched.testing.outcome import Outcome
from aio_sched.testing.schedule import CancelKind, Schedule
from aio_sched.testing.trial import Scenario, run_once
from streams.simulated import PROFILES
from tests.faults.ledger import How
from tests.faults.pipelines import Patient, Squares
from tests.faults.scenarios import Generating, Service
from tests.faults.sums import Sums

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop] | None] = {
    "virtual": None,
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
MAKERS: dict[str, Callable[..., Service | Generating]] = {
    "squares": partial(Service, Squares),
    "patient": partial(Service, Patient),
    "sums": partial(Service, Sums),
    "engine": Generating,
}
KINDS = (CancelKind.NATIVE, CancelKind.ANYIO)


def each_cut(scenario: Scenario, schedule: Schedule, loop: str) -> Iterator[Outcome]:
    """Run with a cut at the first await point, at the second, and so on until there is none."""
    for point in itertools.count():
        cut = replace(schedule, cancel_at=point)
        threads = threading.active_count()
        outcome = run_once(scenario, cut, loop_factory=LOOPS[loop])
        assert threading.active_count() == threads, f"threads left by {cut}"
        if not outcome.is_cut:
            return
        yield outcome


def assert_nothing_lost(outcome: Outcome) -> None:
    """No hazard, and nothing left behind: the checks of the scenarios count all ends."""
    assert not outcome.reports, (outcome.schedule, outcome.reports)
    assert not outcome.left_behind, (outcome.schedule, outcome.left_behind)


def assert_each_cut_is_clean(name: str, loop: str, kind: CancelKind, schedule: Schedule) -> None:
    """Cut the scenario short at each point; the task that was cancelled says nothing else."""
    scenario = MAKERS[name](kind=kind)
    undisturbed = run_once(scenario, schedule, loop_factory=LOOPS[loop])
    assert undisturbed.error is None
    assert len(scenario.ledger.ended(How.RESULT)) == scenario.num_askers
    num_cuts = 0
    for outcome in each_cut(scenario, replace(schedule, cancel_kind=kind), loop):
        assert_nothing_lost(outcome)
        assert outcome.error is None, (outcome.schedule, outcome.error)
        num_cuts += 1
    assert num_cuts >= undisturbed.num_points > 8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", MAKERS)
def test_cancel_at_any_await_point_loses_nothing(name: str, loop: str, kind: CancelKind) -> None:
    """No early reuse, no leak, and every request has one end, wherever the scenario is cut."""
    assert_each_cut_is_clean(name, loop, kind, Schedule(0, "random"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", MAKERS)
def test_cancel_at_any_await_point_of_any_profile_loses_nothing(
    name: str, profile: str, kind: CancelKind
) -> None:
    """The same under other timings and orders of tasks, and with a strict checker."""
    for seed in range(5):
        for order in ("fifo", "random"):
            for is_strict in (False, True):
                schedule = Schedule(seed, profile, order, is_strict=is_strict)
                assert_each_cut_is_clean(name, "virtual", kind, schedule)


# A part of it ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", MAKERS)
def test_cancelled_asker_costs_the_others_nothing(name: str, loop: str, kind: CancelKind) -> None:
    """One reader is cancelled, at any point of its way: all others get what they asked for."""
    scenario = MAKERS[name](victim="asker", kind=kind)
    first = Schedule(0, "random", cancel_kind=kind)
    texts = run_once(scenario, first, loop_factory=LOOPS[loop]).result
    num_cancelled = 0
    for outcome in each_cut(scenario, first, loop):
        assert_nothing_lost(outcome)
        cancelled = scenario.ledger.ended(How.CANCELLED)
        assert set(cancelled) <= {1}
        assert outcome.error is None
        if outcome.result is not None:  # the asker was there to be cancelled
            assert outcome.result | {1: texts[1]} == texts
        num_cancelled += len(cancelled)
    assert num_cancelled > 2


@pytest.mark.parametrize("victim", ["issuer", "publisher"])
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", MAKERS)
def test_cancelled_stage_ends_the_scheduler_with_an_error(
    name: str, loop: str, victim: str
) -> None:
    """Cancelled from outside, in a stage or between two, it fails who waits and says why."""
    scenario = MAKERS[name](victim=victim)
    num_named = 0
    for outcome in each_cut(scenario, Schedule(0, "random"), loop):
        assert_nothing_lost(outcome)
        if outcome.error is not None:
            assert f"'aio-sched-{victim}' was cancelled from outside" in str(outcome.error)
        errors = scenario.ledger.ended(How.ERROR).values()
        num_named += any("from outside" in text for error in errors for text in chain(error))
    assert num_named > 2


def chain(error: BaseException | None) -> Iterator[str]:
    """Give the texts of an error and of what caused it."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__
