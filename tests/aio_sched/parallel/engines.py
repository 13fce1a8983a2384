"""Engines of several ranks in one event loop and in virtual time, each in a task of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from aio_sched.engine.errors import RequestFailedError
from aio_sched.engine.requests import Request, SamplingParams
from aio_sched.parallel.engine import DataParallelEngine
from aio_sched.parallel.group import RankGroup
from aio_sched.parallel.in_process import InProcessRanks
from aio_sched.testing import virtual_run
from streams.device import Device, open_device
from streams.hazards.ranks import rank_scope
from tests.aio_sched.engine.tiny import CHUNK, RiggedModel, assert_at_rest, rigged

__all__ = [
    "SIZES",
    "ServedRank",
    "Traffic",
    "cause_of",
    "count_exchanges",
    "in_step",
    "make_engine",
    "read_all",
    "run_ranks",
]

T = TypeVar("T")

SIZES: dict[str, Any] = {"max_running": 2, "prefill_rows": 2, "chunk": CHUNK}

Traffic = Callable[["ServedRank"], Awaitable[T]]
"""What a rank does while its engine runs."""


class ServedRank:
    """One rank of a test.

    Attributes:
        ranks: of all, for faults.
        exchanges: what it has exchanged: epoch, kind and what all ranks said, one by one.
    """

    def __init__(self, number: int, ranks: InProcessRanks, engine: DataParallelEngine) -> None:
        self.number = number
        self.ranks = ranks
        self.engine = engine
        self.exchanges = count_exchanges(engine.pipeline.group)

    @property
    def model(self) -> RiggedModel:
        """The model that it runs."""
        model = self.engine.pipeline._model
        assert isinstance(model, RiggedModel)
        return model

    def submit(self, prompt: Sequence[int], max_tokens: int = 4) -> Request:
        """Submit letters."""
        return self.engine.submit(bytes(prompt), SamplingParams(max_tokens))


Exchange = tuple[int, str, tuple[tuple[int, ...], ...]]


def count_exchanges(group: RankGroup) -> list[Exchange]:
    """Note all exchanges of a group that come about, from now on."""
    exchanges: list[Exchange] = []
    gather_info = group.gather_info

    async def noted(
        kind: str, values: Sequence[int], *, timeout: float | None = None
    ) -> tuple[tuple[int, ...], ...]:
        epoch = group.epoch
        rows = await gather_info(kind, values, timeout=timeout)
        exchanges.append((epoch, kind, rows))
        return rows

    group.gather_info = noted  # type: ignore[method-assign]  # to look on
    return exchanges


def make_engine(
    group: RankGroup, device: Device, model: RiggedModel | None = None, **options: Any
) -> DataParallelEngine:
    """Make the engine of one rank: tiny, checked, with streams of its own."""
    defaults: dict[str, Any] = SIZES | {"rank_check": True, "name": f"rank{group.rank}"}
    return DataParallelEngine(model or rigged(), device, group, **defaults | options)


def run_ranks(
    num_ranks: int,
    traffic: Traffic[T],
    *,
    seed: int = 0,
    timeout_s: float = 1.0,
    profile: str = "random",
    options: Callable[[int], dict[str, Any]] = lambda rank: {},
    limit_s: float = 60.0,
) -> list[T | BaseException]:
    """Run ``traffic`` on every rank, and return what each came to: a result or an error.

    Args:
        num_ranks: how many.
        traffic: what happens inside each rank's ``async with``.
        seed: of the device and of the order of tasks.
        timeout_s: deadline of an exchange, in virtual seconds.
        profile: of the device.
        options: of each rank's engine.
        limit_s: virtual seconds after which a rank is taken for hung.
    """

    async def rank(number: int, ranks: InProcessRanks, device: Device) -> T:
        engine = make_engine(ranks.groups[number], device, **options(number))
        served = ServedRank(number, ranks, engine)
        async with asyncio.timeout(limit_s), engine:
            result = await traffic(served)
        assert_at_rest(engine)
        return result

    async def main() -> list[T | BaseException]:
        ranks = InProcessRanks(num_ranks, timeout_s=timeout_s)
        with open_device("sim", seed=seed, profile=profile) as device:
            tasks = []
            for number in range(num_ranks):
                with rank_scope(number):
                    tasks.append(asyncio.create_task(rank(number, ranks, device)))
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert device.streams == ()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks were left: {left}"
        return ended

    return virtual_run(main(), seed=seed)


def in_step(
    num_ranks: int, traffic: Traffic[Any], options: Callable[[int], dict[str, Any]] = lambda r: {}
) -> list[ServedRank]:
    """Run traffic, check that all ranks made the same exchanges and steps, and return them."""

    async def noted(served: ServedRank) -> ServedRank:
        await traffic(served)
        return served

    ended = run_ranks(num_ranks, noted, options=options)
    served = [each for each in ended if isinstance(each, ServedRank)]
    assert len(served) == num_ranks, ended
    first = served[0]
    for each in served[1:]:
        assert each.exchanges == first.exchanges
        assert len(each.model.kinds) == len(first.model.kinds)
        assert each.engine.rank_stats.batches == first.engine.rank_stats.batches
    return served


async def read_all(served: ServedRank, requests: Sequence[Request]) -> list[bytes]:
    """Read requests to their ends, all at once."""

    async def read(request: Request) -> bytes:
        async with aclosing(served.engine.stream(request)) as tokens:
            return bytes([token async for token in tokens])

    return await asyncio.gather(*map(read, requests))


async def cause_of(served: ServedRank, request: Request) -> BaseException | None:
    """Read a request to its end, which must be a failure; return its cause."""
    try:
        await read_all(served, [request])
    except RequestFailedError as error:
        return error.__cause__
    raise AssertionError(f"request {request.id} of rank {served.number} did not fail")
