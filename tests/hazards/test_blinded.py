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
    "a clock per rank",
)
INVENTS = (
    "launch",
    "record",
    "wait",
    "observe",
    "rows",
    "hand-overs",
    "collectives",
    "collectives of tasks",
)


def run(scenario: Scenario, *, is_strict: bool) -> Outcome:
    """Run a program once."""
    return run_once(scenario, Schedule(3, "random", "random", is_strict=is_strict))


def missed(*, is_strict: bool = True) -> Iterator[str]:
    """Give what goes unnoticed: racy miniatures, and fences that are gone."""
    for miniature in MINIATURES:
        if miniature.needs_strict and not is_strict:
            continue
        if not found(miniature, run(miniature.racy, is_strict=is_strict)):
            yield miniature.name
    for fence in NEEDED:
        with fence.removed():
            outcome = run(fence.scenario, is_strict=is_strict)
        if not finds(fence, outcome):
            yield fence.name


def false_alarms(*, is_strict: bool = True) -> Iterator[str]:
    """Give the programs in order that have a report all the same."""
    for fence in NEEDED:
        if run(fence.scenario, is_strict=is_strict).reports:
            yield fence.name
    for miniature in MINIATURES:
        if run(miniature.fixed, is_strict=is_strict).reports:
            yield miniature.name


@pytest.mark.parametrize("is_strict", [False, True], ids=["default", "strict"])
def test_checker_that_sees_misses_nothing_and_invents_nothing(is_strict: bool) -> None:
    """Or the tests below would say nothing."""
    assert list(missed(is_strict=is_strict)) == []
    assert list(false_alarms(is_strict=is_strict)) == []


@pytest.mark.parametrize("rule", HIDES)
def test_checker_without_the_rule_misses_a_hazard(rule: str) -> None:
    """The first one is enough to fail the suite."""
    with blinded(rule):
        assert next(missed(is_strict=BLINDINGS[rule].is_strict), None) is not None


@pytest.mark.parametrize("rule", INVENTS)
def test_checker_without_the_rule_reports_what_is_in_order(rule: str) -> None:
    """Order that it does not know of looks like none."""
    with blinded(rule):
        assert next(false_alarms(is_strict=BLINDINGS[rule].is_strict), None) is not None


def test_each_rule_that_can_be_taken_away_is_tried() -> None:
    """A new entry has its test, too."""
    assert sorted((*HIDES, *INVENTS)) == sorted(BLINDINGS)
