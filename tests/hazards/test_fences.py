"""Each fence of the library is needed: without it the hazard that it names is reported.

Or it is listed as redundant on a simulated device, with the edge that covers for it: without
both the hazard is reported as well.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

from aio_sched.testing import Outcome, run_once
from aio_sched.testing.schedule import draw_schedule
from streams.simulated import PROFILES
from tests.hazards.blinding import blinded
from tests.hazards.fences.entry import Fence
from tests.hazards.fences.registry import FENCES
from tests.hazards.fences.source import PACKAGES, ROOT, Place, fences, waits

SCHEDULES = [draw_schedule(seed, "random") for seed in range(20)]


def named(chosen: list[Fence]) -> pytest.MarkDecorator:
    """Run a test for each of some fences."""
    return pytest.mark.parametrize("fence", chosen, ids=[fence.name for fence in chosen])


def runs(fence: Fence) -> list[Outcome]:
    """Run a fence's program under every schedule."""
    return [run_once(fence.scenario, schedule) for schedule in SCHEDULES]


def assert_clean(outcomes: list[Outcome]) -> None:
    """No run has a report, or went wrong in another way."""
    for outcome in outcomes:
        assert outcome.reports == []
        assert outcome.error is None
        assert outcome.left_behind == []


def finds(fence: Fence, outcome: Outcome) -> bool:
    """Whether a run has the report that a fence's hazard must have."""
    return any((report.kind, report.memory) == fence.finds for report in outcome.reports)


def unmatched(places: tuple[Place, ...]) -> list[str]:
    """Return the comments without exactly one entry, and the entries without a comment."""
    entries = Counter(fence for p in places for fence in FENCES if fence.stands_for(p))
    lost = [
        f"{p.file}:{p.line} {p.function}: {p.words}"
        for p in places
        if sum(fence.stands_for(p) for fence in FENCES) != 1
    ]
    return lost + [f"{fence.file} {fence.name}" for fence in FENCES if entries[fence] != 1]


def test_schedules_mix_all_profiles_and_both_checkers() -> None:
    """What is reported in every one of them is reported whatever the timing."""
    assert {schedule.profile for schedule in SCHEDULES} == set(PROFILES)
    assert {schedule.is_strict for schedule in SCHEDULES} == {False, True}


def test_each_fence_in_the_source_has_one_entry_and_each_entry_a_fence() -> None:
    """Whoever adds a fence adds a program that needs it; see ``fences/registry.py``."""
    assert unmatched(fences()) == []


def test_fences_are_found_wherever_the_text_is(tmp_path: Path) -> None:
    """No comment that grep finds is overlooked, and a new one without an entry is told of."""
    (tmp_path / "streams").mkdir()
    source = "class A:\n    def f(self):\n        # WAR: a new one\n        self.wait()\n"
    (tmp_path / "streams" / "new.py").write_text(source)
    assert fences(tmp_path) == (Place("streams/new.py", "A.f", "WAR: a new one", 3),)
    assert "streams/new.py:3 A.f: WAR: a new one" in unmatched(fences(tmp_path))
    files = [file for name in PACKAGES for file in (ROOT / name).rglob("*.py")]
    by_text = sum(len(re.findall(r"# *(?:RAW|WAR|WAW):", file.read_text())) for file in files)
    assert len(fences()) == by_text > 10


def test_each_wait_between_streams_names_its_hazard() -> None:
    """A wait without a comment would be a fence that nobody takes away."""
    silent = [
        wait
        for wait in waits()
        if not any(f[:2] == wait[:2] and 0 < wait.line - f.line <= 3 for f in fences())
    ]
    assert silent == []
    assert len(waits()) >= 9


@named([fence for fence in FENCES if not fence.redundant])
def test_fence_that_is_taken_away_is_reported_under_every_schedule(fence: Fence) -> None:
    """And with it nothing is."""
    assert_clean(runs(fence))
    with fence.removed():
        outcomes = runs(fence)
    assert [finds(fence, outcome) for outcome in outcomes] == [True] * len(SCHEDULES)


@named([fence for fence in FENCES if fence.redundant])
def test_redundant_fence_is_covered_by_the_edge_that_is_named(fence: Fence) -> None:
    """Without it nothing is reported; without it and that edge, its hazard is."""
    with fence.removed():
        assert_clean(runs(fence))
        with blinded(fence.covered_by):
            outcomes = runs(fence)
    assert [finds(fence, outcome) for outcome in outcomes] == [True] * len(SCHEDULES)
