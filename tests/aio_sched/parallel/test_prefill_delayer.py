"""The prefill delayer between ranks: one exchange per pass, and what ends it early."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from aio_sched.parallel.delayer import Decision, DelayerLimits, Estimate, Reason
from aio_sched.parallel.delayer_stats import PassOutcome
from aio_sched.parallel.errors import (
    RankBusyError,
    RankGroupClosedError,
    RankLostError,
    RankMismatchError,
)
from aio_sched.parallel.exchange import FramedGroup
from aio_sched.parallel.in_process import InProcessRanks
from aio_sched.parallel.prefill_delayer import PrefillDelayer, RankLoad
from aio_sched.testing import virtual_run

LIMITS = DelayerLimits(max_running=8, enabled=True, max_passes=4)
BUSY = RankLoad(running=4, queue=2)


def delayers(size: int = 2, limits: DelayerLimits = LIMITS) -> list[PrefillDelayer]:
    """Return the delayers of a new group, by rank."""
    return [PrefillDelayer(group, limits) for group in InProcessRanks(size).groups]


def num_exchanges(delayer: PrefillDelayer) -> int:
    """Return how many exchanges this rank has begun."""
    assert isinstance(delayer.group, FramedGroup)
    return delayer.group.number


async def make_pass(
    delayer: PrefillDelayer, prefillable: bool, load: RankLoad = BUSY, prompts: int = 1
) -> Decision:
    """Make a pass that asks only if there is a prompt, and prefills if it may."""
    prefilled = prompts if prefillable and await delayer.negotiate(load) else 0
    decision = await delayer.finish_pass(load, prefilled=prefilled)
    assert decision is not None, "only of a disabled one"
    return decision


async def passes(ranks: Sequence[PrefillDelayer], *rows: Sequence[bool]) -> list[Decision]:
    """Make a pass per row, on all ranks; return what was agreed on."""
    agreed = []
    for row in rows:
        turns = [make_pass(rank, each) for rank, each in zip(ranks, row, strict=True)]
        first, *others = await asyncio.gather(*turns)
        assert all(other == first for other in others)
        agreed.append(first)
    return agreed


def test_prompts_wait_for_each_other() -> None:
    """A prompt on one rank is refused until the other has one too, then both prefill."""

    async def main() -> None:
        ranks = delayers()
        agreed = await passes(ranks, [True, False], [True, False], [True, True])
        assert [each.reason for each in agreed] == [
            Reason.DELAY,
            Reason.DELAY,
            Reason.WAIT_SUCCESS,
        ]
        assert agreed[-1].refusals == 2

    virtual_run(main())


def test_lone_prompt_is_refused_a_bounded_number_of_times() -> None:
    """The pass number ``max_passes`` prefills, and so on from there."""

    async def main() -> None:
        agreed = await passes(delayers(), *([[True, False]] * 8))
        assert [each.allow for each in agreed] == [False, False, False, True] * 2

    virtual_run(main())


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


def test_waits_are_measured_after_the_state_was_reset() -> None:
    """Prefills that waited for three and for one pass of 20 ms count as that, not as 0."""

    async def main() -> None:
        ranks = delayers()
        for others in (False, False, False, True, True, False, True):
            await passes(ranks, [True, others])
            await asyncio.sleep(0.02)
        for rank in ranks:
            stats = rank.stats
            assert (stats.wait_passes.count, stats.wait_passes.total) == (2, 4.0)
            assert stats.wait_s.total == pytest.approx(0.06 + 0.02, abs=1e-6)
            filled = {
                bound: count
                for bound, count in zip(stats.wait_s.bounds, stats.wait_s.counts, strict=False)
                if count
            }
            assert filled == {0.05: 1, 0.1: 1}
            assert (stats.passes, stats.refusals) == (7, 4)

    virtual_run(main())


def test_outcomes_say_whether_this_rank_prefilled() -> None:
    """By estimate, permission, reason and what became of it; a snapshot stays as it is."""

    async def main() -> None:
        ranks = delayers()
        await passes(ranks, [True, True])
        before = ranks[0].stats
        await asyncio.gather(make_pass(ranks[0], True, prompts=0), make_pass(ranks[1], True))
        await passes(ranks, [False, True])
        all_now = PassOutcome(Estimate.ALL, True, Reason.NO_WAIT, True)
        assert before.outcomes == {all_now: 1}
        refused = PassOutcome(Estimate.MIXED, False, Reason.DELAY, False)
        idle = all_now._replace(executed=False)
        assert ranks[0].stats.outcomes == {all_now: 1, idle: 1, refused: 1}
        assert ranks[1].stats.outcomes == {all_now: 2, refused: 1}

    virtual_run(main())


def test_low_usage_lets_all_ranks_prefill_if_it_has_a_prompt() -> None:
    """A rank whose memory is nearly empty is not held back; one without a prompt forces none."""

    async def main() -> None:
        limits = DelayerLimits(max_running=8, enabled=True, low_watermark=0.25)
        low, high = RankLoad(4, 1, usage=0.2), RankLoad(4, 1, usage=0.25)
        one, other = delayers(limits=limits)
        forced = await asyncio.gather(make_pass(one, True, low), make_pass(other, False, high))
        assert forced[0].reason is Reason.TOKEN_WATERMARK
        refused = await asyncio.gather(make_pass(one, True, high), make_pass(other, False, low))
        assert refused[0].reason is Reason.DELAY

    virtual_run(main())


def test_rest_of_a_prompt_is_not_refused_and_brings_all_ranks_along() -> None:
    """Both may prefill, and a rank that says it has no prompt resumes none."""

    async def main() -> None:
        one, other = delayers()
        resumes = BUSY._replace(resumes=True)
        agreed = await asyncio.gather(make_pass(one, True, resumes), make_pass(other, False))
        assert agreed[0].reason is Reason.RESUMES
        refused = await asyncio.gather(make_pass(one, False, resumes), make_pass(other, True))
        assert refused[0].reason is Reason.DELAY

    virtual_run(main())


def test_prefills_of_the_latest_attempts_say_how_many_places_are_needed() -> None:
    """With 3 places left, 4 prompts in one prefill are waited for until they are out of mind."""

    async def main() -> None:
        limits = DelayerLimits(max_running=8, enabled=True, window=2, max_passes=100)
        ranks = delayers(limits=limits)
        full = RankLoad(running=5, queue=9)

        async def both(load: RankLoad, prompts: int) -> Reason:
            turns = [make_pass(rank, True, load, prompts) for rank in ranks]
            first, other = await asyncio.gather(*turns)
            assert first == other
            return first.reason

        assert await both(BUSY, 4) is Reason.NO_WAIT
        assert await both(full, 4) is Reason.NO_WAIT, "the first wait ever is let through"
        for _ in range(50):
            assert await both(full, 9) is Reason.DELAY, "refusals are no attempts"
        empty = RankLoad(running=0, queue=9)
        assert await both(empty, 2) is Reason.WAIT_SUCCESS
        assert await both(empty, 2) is Reason.NO_WAIT
        assert await both(full, 2) is Reason.NO_WAIT

    virtual_run(main())


def test_wait_ends_by_time_where_passes_are_slow() -> None:
    """Passes of a second reach the delay of 2.5 s before their number does."""

    async def main() -> None:
        ranks = delayers(limits=DelayerLimits(max_running=8, enabled=True, max_delay_s=2.5))
        agreed = []
        for _ in range(4):
            agreed += await passes(ranks, [True, False])
            await asyncio.sleep(1.0)
        assert [each.allow for each in agreed] == [False, False, False, True]
        assert agreed[-1].reason is Reason.WAIT_TIMEOUT
        assert agreed[-1].waited_us == pytest.approx(3_000_000, abs=1)

    virtual_run(main())


def test_quiet_queue_is_waited_for_no_longer() -> None:
    """Its growth, not its length, says that more may come; each rank tells for itself."""

    async def main() -> None:
        limits = DelayerLimits(
            max_running=8, enabled=True, queue_ratio=1.0, queue_quiet_s=0.5, max_prefill=4
        )
        ranks = delayers(limits=limits)
        reasons = []
        for queue in (1, 1, 2, 1, 1, 1):
            load = RankLoad(running=4, queue=queue)
            turns = [make_pass(rank, True, load, 0) for rank in ranks]
            first, *_ = await asyncio.gather(*turns)
            reasons.append(first.reason)
            await asyncio.sleep(0.2)
        assert reasons == [Reason.NO_WAIT] + [Reason.DELAY] * 4 + [Reason.WAIT_SUCCESS]

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
