"""Ranks that decide differently are told who was the first to, and in which step."""

import asyncio
from collections.abc import Sequence

import pytest

from aio_sched.parallel.consensus import RankConsensus, RankDivergedError
from aio_sched.parallel.decision_log import DecisionLog, Difference, first_difference
from aio_sched.parallel.errors import RankMismatchError
from aio_sched.parallel.in_process import InProcessRanks
from aio_sched.testing import virtual_run


def rows_of(*chains: Sequence[int], window: int = 4) -> list[tuple[int, ...]]:
    """Return the rows of ranks that each made these decisions, one a step."""
    logs = [DecisionLog(window) for _ in chains]
    for log, chain in zip(logs, chains, strict=True):
        for log.step, value in enumerate(chain):
            log.note("decided", value)
    return [log.row() for log in logs]


def test_equal_decisions_have_equal_digests() -> None:
    """Of any number, also more than are kept."""
    assert first_difference(rows_of(range(9), range(9), range(9))) is None


@pytest.mark.parametrize(
    ("chains", "found"),
    [
        (([1, 2, 3], [1, 2, 3], [1, 9, 3]), Difference(2, (2,), True)),
        (([1, 2], [9, 2], [1, 2]), Difference(1, (1,), True)),
        (([1, 2], [1, 9]), Difference(2, (1,), True)),
        (([1, 2, 3], [1, 2], [1, 2, 3]), Difference(3, (1,), True)),
        (([9, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]), Difference(2, (0,), False)),
        (([1] * 12, [1] * 2), Difference(9, (1,), False)),
    ],
)
def test_first_difference_is_found_or_said_to_be_older(
    chains: tuple[list[int], ...], found: Difference
) -> None:
    """Later ones follow from it; the minority is named, of two ranks not rank 0."""
    assert first_difference(rows_of(*chains)) == found


def test_name_step_and_order_of_decisions_count() -> None:
    """Not only their values."""

    def digest(*noted: tuple[int, str, int]) -> int:
        log = DecisionLog()
        for log.step, name, value in noted:
            log.note(name, value)
        return log.digest

    digests = {
        digest((0, "a", 1), (0, "b", 2)),
        digest((0, "b", 2), (0, "a", 1)),
        digest((0, "a", 1), (1, "b", 2)),
        digest((0, "a", 1), (0, "c", 2)),
        digest((0, "a", 1), (0, "b", 3)),
        digest((0, "a", 1)),
        digest(),
    }
    assert len(digests) == 7
    assert 0 not in digests


def test_window_without_room_is_refused() -> None:
    """It could never say who differs."""
    with pytest.raises(ValueError, match="window=0"):
        DecisionLog(0)


def errors_of(num_ranks: int, odd: int, odd_step: int, steps: int = 6) -> list[BaseException]:
    """Run ranks of which one decides differently in one step; return what each raised."""

    async def run(consensus: RankConsensus, is_odd: bool) -> None:
        for step in range(steps):
            stated = await consensus.group.gather_info("step", (consensus.digest,))
            await consensus.check([digest for [digest] in stated])
            consensus.begin(step)
            consensus.note("overlap", int(is_odd and step == odd_step))
            consensus.note("idle", 0)

    async def main() -> list[BaseException]:
        groups = InProcessRanks(num_ranks).groups
        running = (run(RankConsensus(group), group.rank == odd) for group in groups)
        ended = await asyncio.gather(*running, return_exceptions=True)
        return [each for each in ended if each is not None]

    return virtual_run(main())


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_every_rank_names_the_rank_and_the_step_that_differ(odd: int) -> None:
    """Also the one that is at fault, and each says what it decided itself."""
    errors = errors_of(3, odd, odd_step=2)
    assert len(errors) == 3
    for rank, error in enumerate(errors):
        assert isinstance(error, RankDivergedError)
        assert (error.ranks, error.step) == ((odd,), 2)
        assert f"rank {odd} decided differently from the others, first in step 2" in str(error)
        assert f"rank {rank} decided overlap({int(rank == odd)},)" in str(error)


def test_ranks_that_decide_alike_raise_nothing() -> None:
    """Nor does a difference that comes after the last exchange."""
    assert errors_of(3, odd=-1, odd_step=0) == []
    assert errors_of(2, odd=1, odd_step=5) == []


def test_check_costs_no_exchange_while_ranks_agree() -> None:
    """The digest travels in a frame that is sent anyway."""

    class Counted(RankConsensus):
        async def check(self, digests: Sequence[int]) -> None:
            before = repr(self.group)
            await super().check(digests)
            assert repr(self.group) == before

    async def main() -> None:
        async def run(consensus: RankConsensus) -> None:
            for value in range(5):
                stated = await consensus.group.gather_info("step", (consensus.digest,))
                await consensus.check([digest for [digest] in stated])
                consensus.note("value", value)

        await asyncio.gather(*(run(Counted(group)) for group in InProcessRanks(2).groups))

    virtual_run(main())


def test_ranks_of_which_only_some_check_are_told_so() -> None:
    """By a mismatch on all of them, not by a hang."""

    async def main() -> list[object]:
        async def run(consensus: RankConsensus) -> None:
            stated = await consensus.group.gather_info("step", (consensus.digest,))
            await consensus.check([digest for [digest] in stated])

        groups = InProcessRanks(3).groups
        running = (run(RankConsensus(group, enabled=group.rank != 1)) for group in groups)
        return await asyncio.gather(*running, return_exceptions=True)

    for error in virtual_run(main()):
        assert isinstance(error, RankMismatchError)
        assert error.ranks == (1,)
        assert "rank_check" in str(error)


def test_disabled_check_states_nothing_and_folds_nothing() -> None:
    """It costs nothing where nobody asked for it."""
    consensus = RankConsensus(InProcessRanks(1).groups[0], enabled=False)
    consensus.note("overlap", 1)
    assert consensus.digest == 0
