"""One exchange per step, and the same batch, or the same error, on every rank."""

import asyncio
from collections.abc import Sequence

import pytest

from aio_sched.parallel.batch_sync import BatchSync
from aio_sched.parallel.consensus import RankConsensus
from aio_sched.parallel.errors import RankLostError, RankMismatchError
from aio_sched.parallel.global_batch import GlobalBatch, Mode, RankState, SyncPolicy
from aio_sched.parallel.group import RankGroup
from aio_sched.parallel.in_process import InProcessRanks
from aio_sched.testing import virtual_run

DECODE = RankState(tokens=2, mode=Mode.DECODE)
PREFILL = RankState(tokens=9, mode=Mode.PREFILL, is_extend=1, can_graph=0)
ALONE = SyncPolicy(consecutive_prefill_overlap=False)


class CountingGroup:
    """Counts the exchanges of a rank, by kind."""

    def __init__(self, group: RankGroup) -> None:
        self.kinds: list[str] = []
        gather_info = group.gather_info

        async def counted(
            kind: str, values: Sequence[int], *, timeout: float | None = None
        ) -> tuple[tuple[int, ...], ...]:
            self.kinds.append(kind)
            return await gather_info(kind, values, timeout=timeout)

        group.gather_info = counted  # type: ignore[method-assign]  # to look on


def gathered(
    *stated: Sequence[RankState], policies: Sequence[SyncPolicy] = (), check: bool = True
) -> list[list[GlobalBatch] | BaseException]:
    """Let each rank state something in each step; return what each got, or what it raised."""

    async def run(group: RankGroup, states: Sequence[RankState]) -> list[GlobalBatch]:
        policy = policies[group.rank] if policies else ALONE
        sync = BatchSync(group, policy, consensus=RankConsensus(group, enabled=check))
        return [await sync.gather(state) for state in states]

    async def main() -> list[list[GlobalBatch] | BaseException]:
        groups = InProcessRanks(len(stated)).groups
        running = (run(group, states) for group, states in zip(groups, stated, strict=True))
        return await asyncio.gather(*running, return_exceptions=True)

    return virtual_run(main())


def test_all_ranks_get_the_same_batches() -> None:
    """With the counts by rank, and overlap off for the second prefill in a row on any rank."""
    first, second = gathered([DECODE, PREFILL, RankState()], [PREFILL, DECODE, DECODE])
    assert first == second
    assert isinstance(first, list)
    assert [batch.counts for batch in first] == [(2, 9), (9, 2), (0, 2)]
    assert [batch.overlap for batch in first] == [True, False, True]


def test_idleness_between_two_prefills_lets_the_second_overlap() -> None:
    """They do not follow each other on the device."""
    [batches] = gathered([PREFILL, RankState(), PREFILL, PREFILL])
    assert isinstance(batches, list)
    assert [batch.overlap for batch in batches] == [True, True, True, False]


def test_each_step_makes_one_exchange() -> None:
    """With the consensus check and without work."""

    async def main() -> list[str]:
        [group] = InProcessRanks(1).groups
        counting = CountingGroup(group)
        sync = BatchSync(group, consensus=RankConsensus(group))
        for state in (DECODE, RankState(), PREFILL):
            await sync.gather(state)
        return counting.kinds

    assert virtual_run(main()) == ["batch"] * 3


def test_ranks_with_other_settings_are_told_at_the_first_step() -> None:
    """Before they decide anything by them."""
    for error in gathered([DECODE], [DECODE], [DECODE], policies=[ALONE, SyncPolicy(), ALONE]):
        assert isinstance(error, RankMismatchError)
        assert error.ranks == (1,)
        assert "other settings" in str(error)


def test_statement_that_cannot_be_is_an_error_on_every_rank() -> None:
    """It names the rank and the value, also where it was stated."""
    for error in gathered([DECODE], [DECODE._replace(tokens=0)]):
        assert isinstance(error, RankMismatchError)
        assert error.ranks == (1,)
        assert "rank 1 states what cannot be: 0 tokens in mode DECODE" in str(error)


def test_rank_that_makes_fewer_steps_is_missed_by_name() -> None:
    """When the deadline is over."""
    whole, short, error = gathered([DECODE] * 2, [DECODE], [DECODE] * 2)
    assert isinstance(short, list)
    for each in (whole, error):
        assert isinstance(each, RankLostError)
        assert each.ranks == (1,)


def test_rebuilt_group_begins_anew() -> None:
    """What was gathered before the failure does not decide any more."""

    async def survive(group: RankGroup) -> GlobalBatch:
        sync = BatchSync(group, ALONE, consensus=RankConsensus(group))
        await sync.gather(PREFILL)
        if group.rank == 0:  # it saw one pass more than the others
            sync.consensus.note("odd", 1)
        with pytest.raises(RankLostError):
            await sync.gather(PREFILL)
        await group.rebuild()
        batch = await sync.gather(PREFILL)
        assert sync.num_passes == 1
        return batch

    async def main() -> list[GlobalBatch]:
        ranks = InProcessRanks(3)

        async def die() -> None:
            await BatchSync(
                ranks.groups[2], ALONE, consensus=RankConsensus(ranks.groups[2])
            ).gather(PREFILL)
            ranks.kill(2)

        first, second, _ = await asyncio.gather(
            survive(ranks.groups[0]), survive(ranks.groups[1]), die()
        )
        return [first, second]

    first, second = virtual_run(main())
    assert first == second
    assert (first.counts, first.overlap) == ((9, 9), True)
