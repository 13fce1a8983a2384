"""Each racy miniature is found, whatever the timing, and its fixed twin never."""

import re
from dataclasses import replace

import pytest

from aio_sched.testing import Outcome, Schedule, run_once
from streams.simulated import PROFILES, SimProfile
from tests.hazards.miniature import FoundBy, Miniature
from tests.hazards.registry import MINIATURES

SEEDS = range(3)
POLLED = replace(PROFILES["random"], name="polled", polled=True)

each = pytest.mark.parametrize("miniature", MINIATURES, ids=[each.name for each in MINIATURES])
each_profile = pytest.mark.parametrize("profile", [*PROFILES, POLLED], ids=[*PROFILES, "polled"])


def schedules(miniature: Miniature, profile: str | SimProfile) -> list[Schedule]:
    """Both strengths of the checker, where the default one can see it."""
    return [
        Schedule(seed, profile, "random", is_strict=miniature.needs_strict or seed % 2 == 1)
        for seed in SEEDS
    ]


def found(miniature: Miniature, outcome: Outcome) -> list[str]:
    """What was found, in words: reports or errors of the kind that is looked for."""
    if isinstance(miniature.finds, str):
        return [str(report) for report in outcome.reports if report.kind == miniature.finds]
    return [str(outcome.error)] if isinstance(outcome.error, miniature.finds) else []


@each
@each_profile
def test_racy_one_is_found_under_every_timing(
    miniature: Miniature, profile: str | SimProfile
) -> None:
    """By what is said to find it, in the words that name who and what."""
    for schedule in schedules(miniature, profile):
        outcome = run_once(miniature.racy, schedule)
        texts = found(miniature, outcome)
        assert any(re.search(miniature.says, text, re.S) for text in texts), (schedule, outcome)


@each
@each_profile
def test_fixed_one_is_clean_under_every_timing(
    miniature: Miniature, profile: str | SimProfile
) -> None:
    """No report, no error, nothing left, and the results of a run without overlap."""
    right = run_once(miniature.fixed, Schedule(overlap=False))
    assert right.error is None
    for schedule in schedules(miniature, profile):
        outcome = run_once(miniature.fixed, schedule)
        assert (outcome.reports, outcome.error, outcome.left_behind) == ([], None, [])
        assert outcome.result == right.result


@each
def test_what_is_said_to_find_it_is_needed(miniature: Miniature) -> None:
    """A mere order goes unnoticed without the checker; the rest is an error without it, too."""
    outcome = run_once(miniature.racy, Schedule(profile="friendly"), check=False)
    assert (outcome.error is None) is (miniature.found_by is FoundBy.ORDER), outcome.error


def test_order_of_tasks_needs_the_strict_checker() -> None:
    """With one clock for the host, its tasks cannot race with each other."""
    for miniature in MINIATURES:
        if miniature.needs_strict:
            assert run_once(miniature.racy, Schedule()).reports == []


def test_there_are_enough_and_of_every_kind() -> None:
    """Every kind of report that a run can have is shown by one, and every finder."""
    assert len(MINIATURES) >= 16
    assert len({miniature.name for miniature in MINIATURES}) == len(MINIATURES)
    kinds = {miniature.finds for miniature in MINIATURES if isinstance(miniature.finds, str)}
    assert kinds == {
        *("RAW", "WAR", "WAW", "early_return"),
        *("stale", "unrecorded", "poison", "issuer", "torch_mode"),
    }
    assert {miniature.found_by for miniature in MINIATURES} == set(FoundBy)
