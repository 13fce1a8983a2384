"""Every kind of fault at every stage, by seed: nothing is lost, and the cause is named."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from aio_sched.testing.outcome import Outcome
from aio_sched.testing.schedule import Schedule
from aio_sched.testing.trial import run_once
from streams.errors import DeadlineError, DeviceLostError
from streams.simulated import PROFILES, Fault, FaultKind
from tests.faults.drawing import strike_until
from tests.faults.ledger import How
from tests.faults.pipelines import Accounted, Patient, Squares
from tests.faults.scenarios import Service
from tests.faults.sums import Sums

FEW, MANY = 5, 200
DEADLINE_S = 2.0  # of virtual time; the slowest launch here takes 0.4 s


@dataclass(frozen=True)
class Site:
    """One launch of one stage of a pipeline.

    Attributes:
        is_copy: between host and device.
        is_awaited: the host waits for it, or asks for it while it is on its way.
    """

    make: type[Accounted]
    stage: str
    label: str
    is_copy: bool = False
    is_awaited: bool = False

    def __str__(self) -> str:
        return f"{self.make.__name__}-{self.stage}-{self.label}"


SITES = (
    Site(Squares, "prepare", "stage_copy", is_copy=True),
    Site(Squares, "forward", "square"),
    Site(Squares, "publish", "host_copy", is_copy=True, is_awaited=True),
    Site(Patient, "prepare", "stage_copy", is_copy=True, is_awaited=True),
    Site(Patient, "forward", "mul"),
    Site(Sums, "prepare", "stage_copy", is_copy=True),
    Site(Sums, "forward", "_advance"),
    Site(Sums, "forward", "pull_rows", is_copy=True, is_awaited=True),
    Site(Sums, "publish", "host_copy", is_copy=True, is_awaited=True),
)
OWN = (FaultKind.LAUNCH_RAISES, FaultKind.OUT_OF_MEMORY)
SLOW = (FaultKind.SLOW_COPY, FaultKind.SLOW_LAUNCH, FaultKind.LATE_WAKEUP)


def can_strike(kind: FaultKind, site: Site) -> bool:
    """Whether there is such a cell: a slow copy needs a copy, a query somebody who asks."""
    if kind is FaultKind.SLOW_COPY:
        return site.is_copy
    return site.is_awaited or kind not in (FaultKind.LATE_WAKEUP, FaultKind.QUERY_ERROR)


CELLS = [
    pytest.param(kind, site, id=f"{kind.value}-{site}")
    for kind in FaultKind
    for site in SITES
    if can_strike(kind, site)
]


def draw(kind: FaultKind, site: Site, seed: int) -> Schedule:
    """Draw a run: which pass of the site, which timing, and whether the device is polled."""
    dice = random.Random(f"{kind}/{site}/{seed}")
    fault = Fault(kind, label=site.label, nth=dice.randint(1, 3))
    is_polled = dice.random() < 0.5 and kind is not FaultKind.LATE_WAKEUP
    profile = replace(PROFILES[dice.choice(list(PROFILES))], polled=is_polled)
    return Schedule(seed, profile, "random", is_strict=dice.random() < 0.5, faults=(fault,))


def strike(site: Site, schedule: Schedule) -> tuple[Service, Outcome]:
    """Run once; what holds for every kind of fault is checked here."""
    [fault] = schedule.faults
    is_dry = fault.kind not in (FaultKind.LAUNCH_HANGS, FaultKind.DEVICE_LOST)
    service = Service(site.make, is_dry=is_dry, wait_deadline_s=DEADLINE_S, stop_deadline_s=1.0)
    outcome = run_once(service, schedule)
    assert not outcome.reports, (schedule, outcome.reports)
    assert not outcome.left_behind, (schedule, outcome.left_behind)
    told = [*service.ledger.ended(How.ERROR).values(), outcome.error]
    for error in filter(None, told):
        assert names(error, fault, site), (schedule, list(chain(error)))
    return service, outcome


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__


def names(error: BaseException, fault: Fault, site: Site) -> bool:
    """Whether an error says what caused it: the fault's text, or which launch hangs."""
    if fault.kind is FaultKind.LAUNCH_HANGS:
        return any(isinstance(e, DeadlineError) and site.label in str(e) for e in chain(error))
    return any(f"injected fault: {fault}" in str(e) for e in chain(error))


def detected_s(service: Service) -> float:
    """When the last of those who were failed got to know."""
    ends = (end for ends in service.ledger.ends.values() for end in ends)
    return max(end.at_s for end in ends if end.how is How.ERROR)


def one_poll_s(schedule: Schedule) -> float:
    """How long nobody may look at a device: the longest pause of the bridge's policy.

    And a few looks, which take time themselves.
    """
    profile = schedule.profile
    assert not isinstance(profile, str)
    return (0.05 if profile.polled else 0.001) + 10e-6 * profile.query_us


# What each kind does ---------------------------------------------------------------


def raises(service: Service, outcome: Outcome) -> None:
    """The requests of the steps that the launch is part of fail; all others live on."""
    assert outcome.error is None
    failed = service.ledger.ended(How.ERROR)
    assert failed
    assert set(failed) == affected(service)
    assert len(service.ledger.ended(How.RESULT)) == service.num_askers - len(failed)
    [fault] = outcome.schedule.faults
    if fault.kind is FaultKind.OUT_OF_MEMORY:
        assert all(
            any(isinstance(e, torch.OutOfMemoryError) for e in chain(error))
            for error in failed.values()
        )


def affected(service: Service) -> set[int]:
    """Return the numbers in steps that failed, each step for a reason.

    In ``Sums`` the second step of a number gathers what the first one should have written, and
    fails with it.
    """
    members, numbers = service.pipeline.members, set[int]()
    for step in service.pipeline.steps.ended(How.ERROR):
        assert isinstance(step, int)
        is_second = isinstance(service.pipeline, Sums) and numbers & set(members[step])
        assert not numbers or is_second, f"step {step} failed for no reason"
        numbers |= set(members[step])
    return numbers


def hangs(service: Service, outcome: Outcome) -> None:
    """The scheduler gives up after its deadline, and says what hangs."""
    assert any(isinstance(error, DeadlineError) for error in chain(outcome.error))
    first = min(n for n in service.pipeline.steps.ended(How.ERROR) if isinstance(n, int))
    waited_s = detected_s(service) - service.pipeline.started_s[first]
    assert waited_s <= DEADLINE_S + one_poll_s(outcome.schedule)
    assert service.ledger.ended(How.ERROR)


def loses_the_device(service: Service, outcome: Outcome) -> None:
    """Everybody learns of it with the next look at the device."""
    assert any(isinstance(error, DeviceLostError) for error in chain(outcome.error))
    [(_, struck_s)] = outcome.struck_s
    assert detected_s(service) <= struck_s + one_poll_s(outcome.schedule)


def is_slow(service: Service, outcome: Outcome) -> None:
    """All is late, and right."""
    assert outcome.error is None
    assert len(service.ledger.ended(How.RESULT)) == service.num_askers


def cannot_be_asked(service: Service, outcome: Outcome) -> None:
    """The requests of the step fail; all others live on.

    A device that is polled is asked again soon, and who waits is told then, or when his step's
    turn comes. Else nobody asks before the notice comes: he is told when he would have had
    his answer.
    """
    raises(service, outcome)
    profile = outcome.schedule.profile
    assert not isinstance(profile, str)
    if profile.polled:
        [(_, struck_s)] = outcome.struck_s
        by_s = max(struck_s, turn_s(service)) + one_poll_s(outcome.schedule)
    else:
        by_s = answered_s(service, outcome.schedule)
    assert detected_s(service) <= by_s


def turn_s(service: Service) -> float:
    """When the last step before the one that failed had ended: publish goes in order."""
    steps = service.pipeline.steps
    first = min(step for step in steps.ended(How.ERROR) if isinstance(step, int))
    earlier = (ends for step, ends in steps.ends.items() if isinstance(step, int) and step < first)
    return max((end.at_s for ends in earlier for end in ends), default=0.0)


def answered_s(service: Service, schedule: Schedule) -> float:
    """When those who were failed have their answers if nothing goes wrong."""
    undisturbed = Service(service.pipeline.__class__, wait_deadline_s=DEADLINE_S)
    assert run_once(undisturbed, replace(schedule, faults=())).error is None
    return max(undisturbed.ledger.ends[name][0].at_s for name in service.ledger.ended(How.ERROR))


EXPECTED: dict[FaultKind, Callable[[Service, Outcome], None]] = {
    FaultKind.LAUNCH_RAISES: raises,
    FaultKind.OUT_OF_MEMORY: raises,
    FaultKind.LAUNCH_HANGS: hangs,
    FaultKind.DEVICE_LOST: loses_the_device,
    FaultKind.SLOW_COPY: is_slow,
    FaultKind.SLOW_LAUNCH: is_slow,
    FaultKind.LATE_WAKEUP: is_slow,
    FaultKind.QUERY_ERROR: cannot_be_asked,
}


def strikes(kind: FaultKind, site: Site, seed: int) -> bool:
    """Run a cell once, check what happened, and say whether the fault took effect."""
    service, outcome = strike(site, draw(kind, site, seed))
    if outcome.unfired:
        is_slow(service, outcome)  # an undisturbed run
        return False
    EXPECTED[kind](service, outcome)
    return True


@pytest.mark.parametrize(("kind", "site"), CELLS)
def test_fault_is_contained_and_named(kind: FaultKind, site: Site) -> None:
    """A few faults of each kind at each launch."""
    strike_until(FEW, partial(strikes, kind, site))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "site"), CELLS)
def test_fault_is_contained_and_named_over_many_seeds(kind: FaultKind, site: Site) -> None:
    """Two hundred faults of each kind at each launch."""
    strike_until(MANY, partial(strikes, kind, site))
