"""Two ranks in step, each with a device of its own: prefills delayed, prompts that differ."""

import asyncio
import random
from contextlib import aclosing

from aio_sched.engine.requests import Request, SamplingParams
from aio_sched.parallel.delayer import DelayerLimits
from aio_sched.parallel.engine import DataParallelEngine
from aio_sched.parallel.errors import RankLostError
from aio_sched.parallel.in_process import InProcessRanks
from aio_sched.testing import Scenario, Trial
from aio_sched.uninterrupted import uninterrupted
from streams.hazards.ranks import rank_scope
from tests.aio_sched.engine.tiny import assert_at_rest
from tests.aio_sched.parallel.engines import SIZES, make_engine

__all__ = ["SHIPPED", "ranks_in_step", "ranks_of_which_one_leaves"]

_DELAYER = DelayerLimits(SIZES["max_running"], enabled=True, max_passes=3, queue_ratio=0.5)


async def ranks_in_step(trial: Trial) -> list[list[bytes]]:
    """Continue texts on two ranks, more than they have slots; some readers leave."""
    return await _run(trial, num_requests=(3, 2), farewell_s=5.0)


async def ranks_of_which_one_leaves(trial: Trial) -> list[list[bytes]]:
    """The same, but one has nothing to do and goes while the other is under way."""
    return await _run(trial, num_requests=(3, 0), farewell_s=0.001)


async def _run(trial: Trial, num_requests: tuple[int, ...], farewell_s: float) -> list[list[bytes]]:
    # A task of its own, so that a cancelled run sees all of its ranks to their ends.
    running = asyncio.create_task(_ranks(trial, num_requests, farewell_s))
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        running.cancel()
        try:
            await uninterrupted(running)
        except* RankLostError:  # one rank that is cancelled sees the other one go first
            pass
        raise
    return running.result()


async def _ranks(
    trial: Trial, num_requests: tuple[int, ...], farewell_s: float
) -> list[list[bytes]]:
    ranks = InProcessRanks(len(num_requests))
    async with asyncio.TaskGroup() as tasks:
        serving = []
        for group, number in zip(ranks.groups, num_requests, strict=True):
            device = trial.device if group.rank == 0 else trial.another_device()
            with rank_scope(group.rank):
                engine = make_engine(
                    group, device, overlap=trial.overlap, delayer=_DELAYER, farewell_s=farewell_s
                )
                trial.watch(engine.pipeline)
                serving.append(tasks.create_task(_serve(trial, engine, number)))
    return [task.result() for task in serving]


async def _serve(trial: Trial, engine: DataParallelEngine, number: int) -> list[bytes]:
    rank = engine.pipeline.group.rank
    dice = random.Random(rank)
    async with engine, asyncio.TaskGroup() as group:
        trial.at_rest(lambda: assert_at_rest(engine))
        reading = []
        for place in range(number):
            params = SamplingParams(max_tokens=2 + place, temperature=place % 2, seed=place)
            request = engine.submit(bytes([1 + place + rank, 2, 3, 4, 5, 6][: 3 + place]), params)
            leaves_after = 2 if place == 1 else 100
            reading.append(group.create_task(_read(engine, request, leaves_after)))
            await asyncio.sleep(dice.uniform(0.0, 0.003))
    return [task.result() for task in reading]


async def _read(engine: DataParallelEngine, request: Request, num_tokens: int) -> bytes:
    async with aclosing(engine.stream(request)) as tokens:
        read = [
            token for _ in range(num_tokens) if (token := await anext(tokens, None)) is not None
        ]
    return bytes(read)


SHIPPED: tuple[Scenario, ...] = (ranks_in_step, ranks_of_which_one_leaves)
