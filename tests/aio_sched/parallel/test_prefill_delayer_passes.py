"""The prefill delayer between ranks: one exchange per pass, and what ends it early."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from aio_sched.parallel.delayer import DelayerLimits
from aio_sched.parallel.errors import (
    RankBusyError,
    RankGroupClosedError,
    RankLostError,
    RankMismatchError,
)
from aio_sched.parallel.in_process import InProcessRanks
from aio_sched.parallel.prefill_delayer import PrefillDelayer, RankLoad
from aio_sched.testing import virtual_run
from tests.aio_sched.parallel.delayer_passes import (
    BUSY,
    LIMITS,
    delayers,
    make_pass,
    num_exchanges,
    passes,
)


async def ask_never(delayer: PrefillDelayer) -> None:
    """Make a pass in which nobody asks: an empty queue."""
    await delayer.finish_pass(RankLoad())


async def ask_thrice(delayer: PrefillDelayer) -> None:
    """Make a pass that asks again and again."""
    answers = [await delayer.negotiate(BUSY) for _ in range(3)]
    assert len(set(answers)) == 1
    await delayer.finish_pass(BUSY)


async def fail_before_asking(delayer: PrefillDelayer) -> None:
    """Make a pass that fails before it has asked."""
    with pytest.raises(LookupError):
        async with delayer.single_pass(BUSY):
            raise LookupError


async def fail_after_asking(delayer: PrefillDelayer) -> None:
    """Make a pass that fails after it has asked."""
    with pytest.raises(LookupError):
        async with delayer.single_pass(BUSY) as turn:
            await turn.negotiate()
            raise LookupError


async def cancelled(delayer: PrefillDelayer) -> None:
    """Make a pass that is cancelled before it has asked."""

    async def prepare() -> None:
        async with delayer.single_pass(BUSY):
            await asyncio.Event().wait()

    task = asyncio.create_task(prepare())
    await asyncio.sleep(1e-3)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def prefill(delayer: PrefillDelayer) -> None:
    """Make a pass as it should be."""
    async with delayer.single_pass(BUSY) as turn:
        turn.prefilled = int(await turn.negotiate())


ways = pytest.mark.parametrize(
    "way", [ask_never, ask_thrice, fail_before_asking, fail_after_asking, cancelled, prefill]
)


@ways
def test_each_pass_is_one_exchange_however_it_goes(
    way: Callable[[PrefillDelayer], Awaitable[None]],
) -> None:
    """Empty, unasked, failed and cancelled passes make as many exchanges as any other."""

    async def main() -> None:
        ranks = delayers(3)
        for _ in range(5):
            await asyncio.gather(way(ranks[0]), prefill(ranks[1]), ask_never(ranks[2]))
        assert [num_exchanges(rank) for rank in ranks] == [5, 5, 5]
        assert [rank.stats.passes for rank in ranks] == [5, 5, 5]

    virtual_run(main())


def test_rank_without_a_prompt_may_not_prefill_later_in_the_pass() -> None:
    """The others decided without it; it is asked again in the next pass."""

    async def main() -> None:
        one, other = delayers()
        answers = await asyncio.gather(
            one.negotiate(BUSY, prefillable=False), other.negotiate(BUSY, prefillable=False)
        )
        assert one.decision == other.decision
        assert not any(answers)
        assert not await one.negotiate(BUSY)
        with pytest.raises(ValueError, match="2 prompts were prefilled in a pass that did not"):
            await one.finish_pass(BUSY, prefilled=2)

    virtual_run(main())


def test_prefill_that_was_refused_is_an_error() -> None:
    """A pipeline that prefills all the same would leave the other ranks behind."""

    async def main() -> None:
        one, other = delayers()
        await asyncio.gather(one.negotiate(BUSY), other.negotiate(BUSY, prefillable=False))
        with pytest.raises(ValueError, match="1 prompts were prefilled"):
            await one.finish_pass(BUSY, prefilled=1)

    virtual_run(main())


def test_disabled_delayer_exchanges_nothing() -> None:
    """Off by default: everything is allowed, and no rank waits for another."""

    async def main() -> None:
        [one, _] = delayers(limits=DelayerLimits(max_running=8))
        assert await one.negotiate(BUSY)
        assert not await one.negotiate(BUSY, prefillable=False)
        assert await one.finish_pass(BUSY, prefilled=1) is None
        assert num_exchanges(one) == one.stats.passes == 0

    virtual_run(main())


def test_other_limits_on_one_rank_are_found_by_all() -> None:
    """Ranks with different limits would decide differently; all of them say which one."""

    async def main() -> None:
        groups = InProcessRanks(3).groups
        other = DelayerLimits(max_running=8, enabled=True, max_passes=5)
        ranks = [PrefillDelayer(groups[rank], [LIMITS, LIMITS, other][rank]) for rank in range(3)]
        errors = await asyncio.gather(
            *(make_pass(rank, True) for rank in ranks), return_exceptions=True
        )
        for error in errors:
            assert isinstance(error, RankMismatchError)
            assert error.ranks == (2,)
            assert "ranks (2,) have other limits of the delayer than rank 0" in str(error)
        with pytest.raises(RankGroupClosedError):
            await ranks[0].finish_pass(BUSY)

    virtual_run(main())


@pytest.mark.parametrize("load", [RankLoad(-1), RankLoad(0, -1), RankLoad(0, 0, 1.5)])
def test_impossible_load_is_refused_before_it_is_exchanged(load: RankLoad) -> None:
    """The other ranks never hear of it."""

    async def main() -> None:
        ranks = delayers()
        with pytest.raises(ValueError, match="give counts from 0"):
            await ranks[0].negotiate(load)
        assert num_exchanges(ranks[0]) == 0
        await passes(ranks, [True, True])

    virtual_run(main())


def test_second_negotiation_at_the_same_time_is_refused() -> None:
    """One issuer asks; a second task is told so, and harms nothing."""

    async def main() -> None:
        one, other = delayers()
        asking = asyncio.create_task(one.negotiate(BUSY))
        await asyncio.sleep(1e-3)
        with pytest.raises(RankBusyError, match="negotiates already"):
            await one.negotiate(BUSY)
        await asyncio.gather(asking, other.negotiate(BUSY))
        await asyncio.gather(one.finish_pass(BUSY), other.finish_pass(BUSY))
        assert num_exchanges(one) == num_exchanges(other) == 1

    virtual_run(main())


async def cut_off(delayer: PrefillDelayer, other: PrefillDelayer) -> None:
    """Cancel a rank in the middle of an exchange that the other one sees to its end."""
    asking = asyncio.create_task(delayer.negotiate(BUSY))
    await asyncio.sleep(1e-3)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    await make_pass(other, False)


def test_cancelled_exchange_leaves_the_delayer_failed_and_the_others_informed() -> None:
    """This rank raises at each verb, and the next pass of the other one fails in time."""

    async def main() -> None:
        one, other = delayers()
        await cut_off(one, other)
        assert (one.has_failed, other.has_failed) == (True, False)
        for verb in (one.negotiate, one.finish_pass):
            with pytest.raises(RankGroupClosedError, match="rebuild the group"):
                await verb(BUSY)
        with pytest.raises(RankLostError):
            await make_pass(other, True)
        assert other.has_failed

    virtual_run(main())


def test_rebuilt_group_begins_again_with_nothing_delayed() -> None:
    """Ranks that had seen different last passes agree again."""

    async def main() -> None:
        ranks = delayers()
        await passes(ranks, [True, False], [True, False])
        await cut_off(*ranks)
        await asyncio.gather(*(rank.group.rebuild() for rank in ranks))
        agreed = await passes(ranks, *([[True, False]] * 4))
        assert [each.refusals for each in agreed] == [1, 2, 3, 3]
        assert agreed[0].waited_us == 0
        assert [num_exchanges(rank) for rank in ranks] == [4, 4]

    virtual_run(main())


def test_pass_under_way_in_a_rebuild_is_over() -> None:
    """A rank that had its answer ends that pass without an exchange that the other lacks."""

    async def main() -> None:
        one, other = delayers()
        await asyncio.gather(one.negotiate(BUSY), other.negotiate(BUSY))
        await asyncio.gather(*(rank.group.rebuild() for rank in (one, other)))
        await one.finish_pass(BUSY, prefilled=1)
        assert num_exchanges(one) == 0
        assert all(await asyncio.gather(one.negotiate(BUSY), other.negotiate(BUSY)))
        assert num_exchanges(one) == num_exchanges(other) == 1

    virtual_run(main())


def test_failed_pass_keeps_what_ended_it() -> None:
    """The error of the block is raised, with a note that the ranks could not be told."""

    async def main() -> None:
        ranks = InProcessRanks(2)
        one = PrefillDelayer(ranks.groups[0], LIMITS)
        with pytest.raises(LookupError) as caught:
            async with one.single_pass(BUSY):
                ranks.kill(1)
                raise LookupError
        assert "was not finished: RankLostError" in caught.value.__notes__[0]
        assert one.has_failed
        assert "rank 0 of 2" in repr(one)

    virtual_run(main())
