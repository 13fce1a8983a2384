"""The checker against brute force: nothing is missed, nothing is made up."""

from typing import NamedTuple

import pytest

from streams.hazards import HazardChecker, shadow
from tests.streams.hazards.programs import Program, StrictProgram
from tests.streams.hazards.rank_programs import RankProgram, StrictRankProgram


class Tally(NamedTuple):
    """Of some programs: racy (storage, operation) pairs, and programs without any."""

    num_racy: int
    num_clean: int


def compare(kind: type[Program], seeds: range) -> Tally:
    """Run programs, and compare each verdict with the closure's.

    Each report must be a race. Not every racy pair is reported: of accesses that are ordered
    among themselves the last one speaks for the others. But wherever an operation races on a
    storage, a report of that operation says so.
    """
    num_racy = num_clean = 0
    for seed in seeds:
        checker = HazardChecker(strict=issubclass(kind, StrictProgram))
        program = kind(seed, checker)
        found, races = program.run(), program.closure.races()
        assert found <= races, f"seed {seed}: reported, but in order: {sorted(found - races)}"
        racy = {(later, storage) for _, later, storage, _ in races}
        missed = racy - {(later, storage) for _, later, storage, _ in found}
        assert not missed, f"seed {seed}: not reported: {sorted(missed)} of {sorted(races)}"
        num_racy += len(racy)
        num_clean += not racy
    return Tally(num_racy, num_clean)


def test_random_programs_get_the_verdict_of_the_closure() -> None:
    """One host clock: reports are the races that brute force finds."""
    tally = compare(Program, range(2_000))
    assert tally.num_racy > 2_000
    assert tally.num_clean > 100


@pytest.mark.parametrize("kind", [Program, RankProgram])
@pytest.mark.parametrize("max_layouts", [0, 8])
def test_forgotten_cells_change_no_verdict(
    monkeypatch: pytest.MonkeyPatch, max_layouts: int, kind: type[Program]
) -> None:
    """What all hosts have seen may be forgotten at every access: nothing is missed for it."""
    monkeypatch.setattr(shadow, "_PRUNE_FROM", 1)
    monkeypatch.setattr(shadow, "_MAX_LAYOUTS", max_layouts)
    tally = compare(kind, range(500))
    assert tally.num_racy > 500


def test_random_strict_programs_get_the_verdict_of_the_closure() -> None:
    """A clock per task: reports are the races that brute force finds."""
    tally = compare(StrictProgram, range(1_000))
    assert tally.num_racy > 1_000
    assert tally.num_clean > 50


@pytest.mark.parametrize("kind", [RankProgram, StrictRankProgram])
def test_random_programs_of_ranks_get_the_verdict_of_the_closure(kind: type[Program]) -> None:
    """Ranks that meet at times: reports are the races that brute force finds."""
    tally = compare(kind, range(1_000))
    assert tally.num_racy > 1_000
    assert tally.num_clean > 30


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
@pytest.mark.parametrize("kind", [RankProgram, StrictRankProgram])
def test_very_many_random_programs_of_ranks_agree(kind: type[Program], part: int) -> None:
    """A hundred thousand of each; prints what it compared."""
    start = 20_000_000 + part * 5_000
    tally = compare(kind, range(start, start + 5_000))
    print(f"{kind.__name__}: 5000 programs, {tally.num_racy} racy cells, 0 disagreements")  # noqa: T201


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "num"), [(Program, 100_000), (StrictProgram, 30_000)])
def test_very_many_random_programs_agree(kind: type[Program], num: int) -> None:
    """The promise in numbers; prints what it compared."""
    tally = compare(kind, range(10_000_000, 10_000_000 + num))
    print(f"{kind.__name__}: {num} programs, {tally.num_racy} racy cells, 0 disagreements")  # noqa: T201
