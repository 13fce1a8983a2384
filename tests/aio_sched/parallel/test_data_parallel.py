"""Engines of several ranks take their steps together, and give what each would give alone."""

import asyncio
import random
from typing import Any

import pytest

from aio_sched.engine.engine import Engine
from aio_sched.engine.requests import FinishReason, SamplingParams
from aio_sched.parallel.delayer import DelayerLimits
from aio_sched.parallel.group import RankGroup
from aio_sched.parallel.in_process import InProcessRanks
from aio_sched.testing import virtual_run
from streams.device import open_device
from tests.aio_sched.engine.tiny import assert_right, rigged
from tests.aio_sched.parallel.engines import (
    SIZES,
    ServedRank,
    Traffic,
    in_step,
    make_engine,
    read_all,
    run_ranks,
)

DELAYER = DelayerLimits(SIZES["max_running"], enabled=True, max_passes=4)
both = pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "sequential"])


def bursts(num_requests: int = 5, most_s: float = 0.004) -> Traffic[list[bytes]]:
    """Return traffic that comes at random moments, another on each rank."""

    async def traffic(served: ServedRank) -> list[bytes]:
        requests = []
        for prompt, max_tokens, pause_s in arrivals(served.number, num_requests, most_s):
            await asyncio.sleep(pause_s)
            requests.append(served.submit(prompt, max_tokens))
        texts = await read_all(served, requests)
        await served.engine.drained()
        for request in requests:
            assert_right(served.model, request)
        return texts

    return traffic


def arrivals(rank: int, num_requests: int, most_s: float) -> list[tuple[bytes, int, float]]:
    """Draw a rank's requests: prompt, tokens, and seconds since the one before."""
    dice = random.Random(f"arrivals/{rank}")
    return [
        (bytes(dice.choices(range(1, 11), k=dice.randint(1, 9))), dice.randint(1, 8), pause_s)
        for pause_s in [dice.uniform(0, most_s) for _ in range(num_requests)]
    ]


async def alone(rank: int, num_requests: int) -> list[bytes]:
    """Give a rank's requests to an engine without other ranks."""
    with open_device("sim") as device:
        async with Engine(rigged(), device, **SIZES) as engine:
            texts = [
                engine.complete(prompt, SamplingParams(max_tokens))
                for prompt, max_tokens, _ in arrivals(rank, num_requests, 1.0)
            ]
            return [text.encode() for text in await asyncio.gather(*texts)]


@both
@pytest.mark.parametrize("delayer", [None, DELAYER], ids=["off", "delayer"])
@pytest.mark.parametrize("num_ranks", [1, 4])
def test_each_rank_gives_the_texts_of_an_engine_alone(
    num_ranks: int, delayer: DelayerLimits | None, overlap: bool
) -> None:
    """Whatever the other ranks run in the same steps."""
    expected = [virtual_run(alone(rank, 5)) for rank in range(num_ranks)]
    options = {"delayer": delayer, "overlap": overlap}
    for seed in range(2):
        texts = run_ranks(num_ranks, bursts(), seed=seed, options=lambda rank: options)
        assert texts == expected


async def test_ranks_share_a_real_loop_with_a_device_each() -> None:
    """Out of virtual time, on threads."""

    async def rank(group: RankGroup) -> None:
        with open_device("cpu") as device:
            engine = make_engine(group, device)
            async with asyncio.timeout(60.0), engine:
                texts = [engine.submit(bytes([1 + group.rank, 2, 3]), SamplingParams(6))]
                await read_all(ServedRank(group.rank, ranks, engine), texts)
        for request in texts:
            assert request.finish is FinishReason.LENGTH
            assert_right(rigged(), request)

    ranks = InProcessRanks(2, timeout_s=30.0)
    await asyncio.gather(*map(rank, ranks.groups))


def test_rank_without_requests_runs_an_idle_batch_in_every_step() -> None:
    """So that collectives inside the model find all ranks there; its rows are padding."""

    async def traffic(served: ServedRank) -> None:
        if served.number == 0:
            await read_all(served, [served.submit([1, 2, 3, 4, 5, 6], 4)])

    busy, idle, other = in_step(3, traffic)
    assert busy.model.kinds.count("prefill") == 2
    assert idle.model.kinds == other.model.kinds == ["decode"] * len(busy.model.kinds)
    assert idle.engine.rank_stats.idle_batches == idle.engine.rank_stats.batches
    assert busy.engine.rank_stats.idle_batches == 0


def test_ranks_without_work_exchange_nothing_until_one_rings() -> None:
    """Long idleness costs as many exchanges as a short one."""

    def traffic(pause_s: float) -> Traffic[None]:
        async def served_rank(served: ServedRank) -> None:
            for _ in range(2):
                await asyncio.sleep(pause_s)
                if served.number == 1:
                    await read_all(served, [served.submit([1, 2, 3], 3)])

        return served_rank

    short = in_step(2, traffic(0.1))[0]
    long = in_step(2, traffic(20.0))[0]
    assert len(long.exchanges) == len(short.exchanges) < 30


def test_prefills_in_a_row_run_alone_on_all_ranks_if_they_must() -> None:
    """Also where the second one is another rank's."""

    async def traffic(served: ServedRank) -> None:
        requests = [served.submit([1, 2, 3, 4] * 4, 1) for _ in range(served.number)]
        await read_all(served, requests)

    by_default = in_step(3, traffic)
    assert [each.engine.rank_stats.serial_batches for each in by_default] == [0, 0, 0]
    alone = in_step(3, traffic, lambda rank: {"consecutive_prefill_overlap": False})
    [serial] = {each.engine.rank_stats.serial_batches for each in alone}
    assert serial >= 3


def most_in_flight(served: ServedRank) -> list[int]:
    """Note how many steps are in flight at each exchange of a rank, from now on."""
    group, turns = served.engine.pipeline.group, served.engine.scheduler.turns
    gather_info, in_flight = group.gather_info, []

    async def noted(*args: Any, **options: Any) -> Any:
        in_flight.append(len(turns.in_flight))
        return await gather_info(*args, **options)

    group.gather_info = noted  # type: ignore[method-assign]  # to look on
    return in_flight


@pytest.mark.parametrize("wanted", [True, False])
def test_one_rank_switches_overlap_off_for_all(wanted: bool) -> None:
    """Its wish is gathered, and then no rank prepares a step while another is in flight."""
    most = {}

    async def traffic(served: ServedRank) -> None:
        served.engine.pipeline.wants_overlap = wanted or served.number != 1
        in_flight = most_in_flight(served)
        await read_all(served, [served.submit([1, 2, 3], 5)])
        most[served.number] = max(in_flight)

    for served in in_step(3, traffic):
        stats = served.engine.rank_stats
        assert stats.serial_batches == (0 if wanted else stats.batches)
    assert most == dict.fromkeys(range(3), 1 if wanted else 0)
