"""How ranks in step end: what fails, what is aborted, who leaves, and what the others see."""

import asyncio
import random
from typing import Any

import pytest

from aio_sched.engine.requests import FinishReason, Request
from aio_sched.errors import SchedulerClosedError
from aio_sched.parallel.delayer import DelayerLimits
from aio_sched.parallel.errors import RankLostError, RankMismatchError
from streams.simulated import Latch
from tests.aio_sched.engine.test_pipeline import BrokenRing
from tests.aio_sched.engine.tiny import assert_right
from tests.aio_sched.parallel.engines import (
    SIZES,
    ServedRank,
    cause_of,
    in_step,
    read_all,
    run_ranks,
)

DELAYER = DelayerLimits(SIZES["max_running"], enabled=True, max_passes=4)
both = pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "sequential"])


@both
def test_failing_step_fails_the_requests_of_its_rank_only(overlap: bool) -> None:
    """The others' texts are right, and no rank gets out of step."""

    async def traffic(served: ServedRank) -> None:
        if served.number == 0:
            served.model.fail_next("decode", MemoryError("of rank 0"))
            assert isinstance(await cause_of(served, served.submit([1, 2, 3], 5)), MemoryError)
        request = served.submit([3, 2, 1], 6)
        await read_all(served, [request])
        assert_right(served.model, request)
        await served.engine.drained()

    in_step(2, traffic, lambda rank: {"overlap": overlap})


def test_failing_upload_is_replaced_by_an_idle_batch() -> None:
    """Its requests fail; the other rank, which counts on a batch, gets one."""

    async def traffic(served: ServedRank) -> None:
        request = served.submit([1, 2, 3], 5)
        if served.number == 0:
            pipeline = served.engine.pipeline
            ring: Any = BrokenRing(pipeline._prefill_staging)
            ring.error = OSError("no page-locked memory")
            pipeline._prefill_staging = ring
            assert isinstance(await cause_of(served, request), OSError)
            request = served.submit([1, 2, 3], 5)
        await read_all(served, [request])
        assert_right(served.model, request)
        await served.engine.drained()

    failed, _ = in_step(2, traffic)
    assert failed.model.kinds[0] == "decode"


@pytest.mark.parametrize("seed", range(5))
def test_aborted_requests_leave_nothing_behind(seed: int) -> None:
    """Whenever they are aborted: while an exchange is under way, in flight, or waiting."""

    async def traffic(served: ServedRank) -> None:
        dice = random.Random(f"aborts/{seed}/{served.number}")
        requests = [served.submit([1 + number, 2, 3, 4, 5], 9) for number in range(5)]
        for request in requests:
            await asyncio.sleep(dice.uniform(0, 0.002))
            if dice.random() < 0.6:
                served.engine.abort(request)
        await served.engine.drained()
        assert all(request.finish for request in requests)

    in_step(3, traffic, lambda rank: {"delayer": DELAYER})


def test_request_aborted_during_an_exchange_keeps_its_rows_for_the_step() -> None:
    """The other ranks count on the batch that was stated: it runs, and nobody gets its token."""

    async def traffic(served: ServedRank) -> None:
        request = served.submit([1, 2, 3], 5)
        group = served.engine.pipeline.group
        gather_info = group.gather_info

        async def aborting(kind: str, values: Any, **options: Any) -> Any:
            if served.number == 0 and kind == "batch":
                served.engine.abort(request)
            return await gather_info(kind, values, **options)

        group.gather_info = aborting  # type: ignore[method-assign]  # at the worst moment
        await served.engine.drained()
        assert bool(request.output) is (served.number == 1)

    aborted, other = in_step(2, traffic)
    assert aborted.model.kinds[0] == other.model.kinds[0] == "prefill"


def test_request_whose_slot_comes_free_during_an_exchange_does_not_sleep() -> None:
    """No wake-up tells of it: its rank says that it has more, and the ranks stay awake."""

    async def traffic(served: ServedRank) -> None:
        if served.number == 1:
            return
        first, second, third = (served.submit([1, 2, 3 + number], 5) for number in range(3))
        group = served.engine.pipeline.group
        gather_info = group.gather_info

        async def aborting(kind: str, values: Any, **options: Any) -> Any:
            rows = await gather_info(kind, values, **options)
            if kind == "prefill":
                served.engine.abort(first)
                served.engine.abort(second)
            return rows

        group.gather_info = aborting  # type: ignore[method-assign]  # what was negotiated is gone
        await asyncio.wait_for(read_all(served, [third]), 2.0)
        assert_right(served.model, third)

    in_step(2, traffic, lambda rank: {"delayer": DELAYER})


def test_rank_whose_block_fails_is_lost_to_the_others_at_once() -> None:
    """They do not wait for the deadline of their exchange."""

    async def traffic(served: ServedRank) -> None:
        await read_all(served, [served.submit([1, 2, 3], 2)])
        if served.number == 1:
            raise ZeroDivisionError("in the service of rank 1")
        began_s = asyncio.get_running_loop().time()
        error = await cause_of(served, served.submit([1, 2, 3], 50))
        assert isinstance(error, RankLostError)
        assert error.ranks == (1,)
        assert asyncio.get_running_loop().time() - began_s < 0.1

    first, second, third = run_ranks(3, traffic, timeout_s=30.0)
    assert isinstance(second, ZeroDivisionError)
    assert isinstance(first, RankLostError)
    assert isinstance(third, RankLostError)


def test_lost_rank_ends_requests_also_where_the_device_hangs() -> None:
    """They do not wait for the device to be given back."""
    is_hanging = asyncio.Event()

    async def traffic(served: ServedRank) -> None:
        if served.number == 1:
            await is_hanging.wait()
            raise ZeroDivisionError("in the service of rank 1")
        request = served.submit([1, 2, 3], 50)
        await anext(served.engine.stream(request))
        latch = Latch("hangs")
        served.engine.scheduler.turns.streams[1].launch(latch)
        is_hanging.set()
        second = served.submit([1, 2, 3], 50)
        began_s = asyncio.get_running_loop().time()
        assert isinstance(await cause_of(served, second), RankLostError)
        assert asyncio.get_running_loop().time() - began_s < 0.1
        latch.release()

    lost, failed = run_ranks(2, traffic, options=lambda rank: {"depth": 99})
    assert isinstance(lost, RankLostError)
    assert isinstance(failed, ZeroDivisionError)


def test_request_that_comes_while_its_rank_leaves_is_aborted() -> None:
    """The farewell ends all the same, and the other rank notices nothing."""
    late: list[Request] = []

    async def traffic(served: ServedRank) -> None:
        if served.number == 1:
            await read_all(served, [served.submit([3, 2, 1], 8)])
            await asyncio.sleep(0.05)
            return
        asyncio.get_running_loop().call_later(0.003, lambda: late.append(served.submit([1], 3)))

    assert run_ranks(2, traffic) == [None, None]
    assert [request.finish for request in late] == [FinishReason.ABORTED]


def test_ranks_that_end_at_about_the_same_time_part_together() -> None:
    """None rebuilds the group, whoever is first; the first one waits for the last."""

    async def traffic(served: ServedRank) -> ServedRank:
        await read_all(served, [served.submit([1, 2, 3], 1 + 4 * served.number)])
        return served

    for served in in_step(3, traffic):
        pipeline = served.engine.pipeline
        assert pipeline.synced is not None
        assert (pipeline.group.epoch, pipeline.synced.parting) == (0, (0, 1, 2))


@both
def test_rank_that_leaves_early_is_done_without(overlap: bool) -> None:
    """After its farewell the others rebuild the group, and their texts are not touched."""

    async def traffic(served: ServedRank) -> tuple[int, int]:
        if served.number == 1:
            return 0, 0
        requests = [served.submit([1, 2, 3 + number], 40) for number in range(4)]
        await read_all(served, requests)
        for request in requests:
            assert_right(served.model, request)
        await asyncio.sleep(1.0)
        await read_all(served, [served.submit([5], 3)])
        group = served.engine.pipeline.group
        return group.epoch, group.size

    ended = run_ranks(3, traffic, options=lambda rank: {"farewell_s": 0.003, "overlap": overlap})
    assert ended == [(1, 2), (0, 0), (1, 2)]


def test_leaving_ends_what_runs_as_aborted() -> None:
    """As an engine alone does; a request that comes then is aborted too."""

    async def traffic(served: ServedRank) -> Request:
        request = served.submit([1, 2, 3], 50)
        if served.number == 0:
            await anext(served.engine.stream(request))
        return request

    ended = run_ranks(2, traffic)
    for request in ended:
        assert isinstance(request, Request)
        assert request.finish is FinishReason.ABORTED
        assert isinstance(request.error, SchedulerClosedError)


def test_negative_farewell_is_refused() -> None:
    """With its value."""

    async def traffic(served: ServedRank) -> None:
        raise AssertionError("no engine was made")

    [error] = run_ranks(1, traffic, options=lambda rank: {"farewell_s": -1.0})
    assert isinstance(error, ValueError)
    assert "farewell_s=-1.0" in str(error)


def test_rank_whose_device_hangs_leaves_all_the_same() -> None:
    """It can make no pass to tell of it: it goes when the others must have given it up."""
    left: list[bool] = []

    async def traffic(served: ServedRank) -> None:
        requests = [served.submit([1, 2, 3], 50) for _ in range(2)]
        await anext(served.engine.stream(requests[0]))
        if served.number == 0:
            assert isinstance(await cause_of(served, requests[1]), RankLostError)
            return
        latch = Latch("hangs")
        served.engine.scheduler.turns.streams[1].launch(latch)
        later = asyncio.get_running_loop().call_later
        later(9.0, lambda: left.append(served.engine.pipeline.membership.has_parted))
        later(10.0, latch.release)
        await asyncio.sleep(0.01)

    lost, gone = run_ranks(2, traffic, options=lambda rank: {"farewell_s": 0.01})
    assert isinstance(lost, RankLostError)
    assert (gone, left) == (None, [True])


@pytest.mark.parametrize("name", ["max_running", "prefill_rows", "chunk"])
def test_ranks_of_different_sizes_are_told_at_the_first_step(name: str) -> None:
    """The rank and its settings are named, and no model has run."""

    async def traffic(served: ServedRank) -> None:
        error = await cause_of(served, served.submit([1, 2, 3]))
        assert isinstance(error, RankMismatchError)
        assert error.ranks == (1,)
        assert f"{name}={SIZES[name] + served.number}" in str(error)
        assert served.model.kinds == []

    errors = run_ranks(2, traffic, options=lambda rank: {name: SIZES[name] + rank})
    assert all(isinstance(error, RankMismatchError) for error in errors)
