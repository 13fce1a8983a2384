"""A blinded checker fails this suite: it misses a hazard, or sees one where there is none.

Each rule is taken away in turn. What is run is what the other tests of this folder run, under
one schedule each.
"""

from collections.abc import Iterator

import pytest

from aio_sched.testing import Outcome, Scenario, Schedule, run_once
from tests.hazards.blinding import BLINDINGS, blinded
from tests.hazards.fences.registry import FENCES
from tests.hazards.registry import MINIATURES
from tests.hazards.test_fences import finds
from tests.hazards.test_miniatures import found

SCHEDULE = Schedule(3, "random", "random", is_strict=True)
NEEDED = sorted(
    (fence for fence in FENCES if not fence.redundant),
    key=lambda fence: "engine" in fence.file,  # last, because they take longest
)

HIDES = (
    "reads",
    "writes",
    "ranges that overlap",
    "the host's accesses",
    "what is given back",
    "misuse",
    "a clock per task",
)
INVENTS = ("launch", "record", "wait", "observe", "rows", "hand-overs")


def run(scenario: Scenario) -> Outcome:
    """Run a program once."""
    return run_once(scenario, SCHEDULE)


def missed() -> Iterator[str]:
    """Give what goes unnoticed: racy miniatures, and fences that are gone."""
    for miniature in MINIATURES:
        if not found(miniature, run(miniature.racy)):
            yield miniature.name
    for fence in NEEDED:
        with fence.removed():
            outcome = run(fence.scenario)
        if not finds(fence, outcome):
            yield fence.name


def false_alarms() -> Iterator[str]:
    """Give the programs in order that have a report all the same."""
    for fence in NEEDED:
        if run(fence.scenario).reports:
            yield fence.name
    for miniature in MINIATURES:
        if run(miniature.fixed).reports:
            yield miniature.name


def test_checker_that_sees_misses_nothing_and_invents_nothing() -> None:
    """Or the tests below would say nothing."""
    assert list(missed()) == []
    assert list(false_alarms()) == []


@pytest.mark.parametrize("rule", HIDES)
def test_checker_without_the_rule_misses_a_hazard(rule: str) -> None:
    """The first one is enough to fail the suite."""
    with blinded(rule):
        assert next(missed(), None) is not None


@pytest.mark.parametrize("rule", INVENTS)
def test_checker_without_the_rule_reports_what_is_in_order(rule: str) -> None:
    """Order that it does not know of looks like none."""
    with blinded(rule):
        assert next(false_alarms(), None) is not None


def test_each_rule_that_can_be_taken_away_is_tried() -> None:
    """A new entry has its test, too."""
    assert sorted((*HIDES, *INVENTS)) == sorted(BLINDINGS)
