"""The prefill delayer between ranks: what is waited for, for how long, and how it is counted."""

import asyncio

import pytest

from aio_sched.parallel.delayer import DelayerLimits, Estimate, Reason
from aio_sched.parallel.delayer_stats import PassOutcome
from aio_sched.parallel.prefill_delayer import RankLoad
from aio_sched.testing import virtual_run
from tests.aio_sched.parallel.delayer_passes import (
    BUSY,
    delayers,
    make_pass,
    passes,
)


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
