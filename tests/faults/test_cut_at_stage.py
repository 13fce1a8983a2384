"""Cancelled, or told to stop by SIGTERM, where a stage of some step begins."""

import asyncio
import random
import signal
from collections.abc import Callable

import pytest
import uvloop

from aio_sched.errors import SchedulerClosedError
from aio_sched.testing.await_points import StagePoint
from aio_sched.testing.outcome import Outcome
from aio_sched.testing.schedule import CancelKind, Schedule
from aio_sched.testing.trial import run_once
from streams.simulated import PROFILES
from tests.faults.ledger import How
from tests.faults.pipelines import Accounted, Patient, Squares
from tests.faults.scenarios import Service, SignalledService
from tests.faults.sums import Sums

FEW, MANY = 5, 200
STAGES = ("prepare", "forward", "publish")
MAKERS = (Squares, Patient, Sums)
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop] | None] = {
    "virtual": None,
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
CELLS = [
    pytest.param(kind, make, stage, id=f"{kind.value}-{make.__name__}-{stage}")
    for kind in CancelKind
    for make in MAKERS
    for stage in STAGES
]


def draw(kind: CancelKind, stage: str, seed: int) -> Schedule:
    """Draw a run: which step, which timing, which order of tasks."""
    dice = random.Random(f"{kind}/{stage}/{seed}")
    return Schedule(
        seed,
        dice.choice(list(PROFILES)),
        "random",
        is_strict=dice.random() < 0.5,
        cancel_at=StagePoint(stage, dice.randint(0, 2)),
        cancel_kind=kind,
    )


def cut(kind: CancelKind, make: type[Accounted], schedule: Schedule, loop: str) -> Outcome:
    """Run once; each request has one end, the answers are right, and nothing is left."""
    signalled = kind is CancelKind.SIGTERM
    service = (SignalledService if signalled else Service)(make, kind=kind)
    outcome = run_once(service, schedule, loop_factory=LOOPS[loop])
    assert not outcome.reports, (schedule, outcome.reports)
    assert not outcome.left_behind, (schedule, outcome.left_behind)
    assert outcome.error is None, (schedule, outcome.error)
    if signalled and outcome.is_cut:
        assert_drained(service)
    return outcome


def assert_drained(service: Service) -> None:
    """What had begun was answered, what waited was refused, nobody was cancelled."""
    assert not service.pipeline.steps.ended(How.ERROR)
    assert not service.ledger.ended(How.CANCELLED)
    refused = service.ledger.ended(How.ERROR)
    assert all(isinstance(error, SchedulerClosedError) for error in refused.values())
    assert len(refused) + len(service.ledger.ended(How.RESULT)) == service.num_askers


def explore_cell(kind: CancelKind, make: type[Accounted], stage: str, num_seeds: int) -> None:
    """Run a cell; it fails if no run was ever cut."""
    outcomes = [cut(kind, make, draw(kind, stage, s), "virtual") for s in range(num_seeds)]
    assert any(outcome.is_cut for outcome in outcomes)


@pytest.mark.parametrize(("kind", "make", "stage"), CELLS)
def test_cut_where_a_stage_begins_loses_nothing(
    kind: CancelKind, make: type[Accounted], stage: str
) -> None:
    """A few seeds of each."""
    explore_cell(kind, make, stage, FEW)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "make", "stage"), CELLS)
def test_cut_where_a_stage_begins_loses_nothing_over_many_seeds(
    kind: CancelKind, make: type[Accounted], stage: str
) -> None:
    """Two hundred seeds of each."""
    explore_cell(kind, make, stage, MANY)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("make", MAKERS)
def test_sigterm_drains_on_real_loops(make: type[Accounted], stage: str, loop: str) -> None:
    """The loop's own signal handling, with steps in flight."""
    for step in range(3):
        schedule = Schedule(
            profile="random", cancel_at=StagePoint(stage, step), cancel_kind=CancelKind.SIGTERM
        )
        assert cut(CancelKind.SIGTERM, make, schedule, loop).is_cut


def test_sigterm_refuses_who_waits() -> None:
    """With more askers than a batch, some have not been taken by any step yet."""
    service = SignalledService(Squares, 12)
    schedule = Schedule(cancel_at=StagePoint("forward", 1), cancel_kind=CancelKind.SIGTERM)
    outcome = run_once(service, schedule)
    assert outcome.is_cut
    assert_drained(service)
    assert service.ledger.ended(How.ERROR)
    assert service.ledger.ended(How.RESULT)


def test_sigterm_that_nothing_handles_is_not_raised() -> None:
    """It would end the tests: the run says instead what is missing."""
    former = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        schedule = Schedule(cancel_at=0, cancel_kind=CancelKind.SIGTERM)
        outcome = run_once(Service(Squares), schedule)
    finally:
        signal.signal(signal.SIGTERM, former)
    [complaint] = outcome.left_behind
    assert "nothing handled SIGTERM" in complaint
