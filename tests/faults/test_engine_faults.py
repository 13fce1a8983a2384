"""Every kind of fault at every launch of the engine: a struck step costs its own requests only."""

import random
from collections.abc import Hashable, Iterator

import pytest

from aio_sched.testing.outcome import Outcome
from aio_sched.testing.schedule import Schedule
from aio_sched.testing.trial import run_once
from streams.errors import DeadlineError
from streams.simulated import PROFILES, Fault, FaultKind
from tests.faults.drawing import strike_until
from tests.faults.ledger import How
from tests.faults.scenarios import Generating

FEW, MANY = 3, 200
STAGES = {
    "stage_copy": "prepare",
    "_run_prefill": "forward",
    "_run_decode": "forward",
    "host_copy": "publish",
}
STOPS = (FaultKind.LAUNCH_HANGS, FaultKind.DEVICE_LOST)
FAILS = (FaultKind.LAUNCH_RAISES, FaultKind.OUT_OF_MEMORY, FaultKind.QUERY_ERROR)


def can_strike(kind: FaultKind, label: str) -> bool:
    """Whether there is such a cell; the engine waits for nothing but the copy of its tokens."""
    if kind is FaultKind.SLOW_COPY:
        return label in ("stage_copy", "host_copy")
    return label == "host_copy" or kind not in (FaultKind.LATE_WAKEUP, FaultKind.QUERY_ERROR)


CELLS = [
    pytest.param(kind, label, id=f"{kind.value}-{STAGES[label]}-{label}")
    for kind in FaultKind
    for label in STAGES
    if can_strike(kind, label)
]


@pytest.fixture(scope="module")
def texts() -> dict[Hashable, bytes]:
    """What the model writes when nothing goes wrong, and nothing overlaps."""
    texts: dict[Hashable, bytes] = run_once(Generating(), Schedule(overlap=False)).result
    return texts


def strike(kind: FaultKind, label: str, seed: int) -> tuple[Generating, Outcome]:
    """Run once with one fault at one of the first launches of this label."""
    dice = random.Random(f"{kind}/{label}/{seed}")
    fault = Fault(kind, label=label, nth=dice.randint(1, 2))
    generating = Generating(is_dry=kind not in STOPS, wait_deadline_s=2.0, stop_deadline_s=1.0)
    profile = dice.choice(list(PROFILES))
    return generating, run_once(generating, Schedule(seed, profile, "random", faults=(fault,)))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__


def is_named(error: BaseException, fault: Fault) -> bool:
    """Whether an error says what caused it: the fault, or which launch hangs."""
    if fault.kind is FaultKind.LAUNCH_HANGS:
        late = [cause for cause in causes(error) if isinstance(cause, DeadlineError)]
        return any(str(fault.label) in str(cause) for cause in late)
    return any(f"injected fault: {fault}" in str(cause) for cause in causes(error))


def check(generating: Generating, outcome: Outcome, texts: dict[Hashable, bytes]) -> None:
    """Nothing is lost, every text that came is right, and every error names its cause."""
    [fault] = outcome.schedule.faults
    assert not outcome.reports, (outcome.schedule, outcome.reports)
    assert not outcome.left_behind, (outcome.schedule, outcome.left_behind)
    complete, failed = (generating.ledger.ended(how) for how in (How.RESULT, How.ERROR))
    assert complete.items() <= texts.items()
    assert complete.keys() | failed.keys() == texts.keys()
    assert all(is_named(error, fault) for error in failed.values()), (outcome.schedule, failed)
    assert (outcome.error is not None) == (fault.kind in STOPS)
    # Whoever collects what the device has let go of may be the one who asks; then no step fails.
    is_seen = fault.kind in (*STOPS, *FAILS)
    assert bool(failed) == is_seen or fault.kind is FaultKind.QUERY_ERROR
    if fault.kind in FAILS:
        assert complete, "a step has two rows, and there are three requests"


def explore_cell(
    kind: FaultKind, label: str, num_faults: int, texts: dict[Hashable, bytes]
) -> None:
    """Run a cell until its site has fired so often."""

    def strikes(seed: int) -> bool:
        generating, outcome = strike(kind, label, seed)
        if not outcome.unfired:
            check(generating, outcome, texts)
        return not outcome.unfired

    strike_until(num_faults, strikes)


@pytest.mark.parametrize(("kind", "label"), CELLS)
def test_fault_costs_its_own_step_only(
    kind: FaultKind, label: str, texts: dict[Hashable, bytes]
) -> None:
    """A few faults of each kind at each launch."""
    explore_cell(kind, label, FEW, texts)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "label"), CELLS)
def test_fault_costs_its_own_step_only_over_many_seeds(
    kind: FaultKind, label: str, texts: dict[Hashable, bytes]
) -> None:
    """Two hundred faults of each kind at each launch."""
    explore_cell(kind, label, MANY, texts)
