"""Ranks that share a process and do not all do the same."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import torch

from aio_sched.testing import DeadlockError, Trial
from streams.hazards import Access, arrive, depart, rank_scope
from streams.monitor import host_reads, host_writes
from tests.hazards.miniature import FoundBy, Miniature

__all__ = ["MINIATURES"]

NUM_RANKS = 2


class Exchange:
    """One exchange: who has come, and whether all have."""

    def __init__(self) -> None:
        self.ranks: list[int] = []
        self.is_over = asyncio.Event()


class Group:
    """Counts exchanges, and nothing else: the n-th one of a rank is the n-th one of each."""

    def __init__(self) -> None:
        self._exchanges = [Exchange() for _ in range(8)]
        self._counts = [0] * NUM_RANKS

    def enter(self, rank: int) -> Exchange:
        """Give the rank's part of its next exchange."""
        exchange = self._exchanges[self._counts[rank]]
        self._counts[rank] += 1
        arrive(exchange)
        exchange.ranks.append(rank)
        if len(exchange.ranks) == NUM_RANKS:
            exchange.is_over.set()
        return exchange

    async def meet(self, rank: int) -> None:
        """Exchange something with all ranks."""
        exchange = self.enter(rank)
        await exchange.is_over.wait()
        depart(exchange)


class Mailbox:
    """A row per rank, which its rank writes and the others read."""

    def __init__(self, trial: Trial, name: str = "mailbox") -> None:
        self._name = name
        self._device = trial.device
        self._rows = torch.zeros(NUM_RANKS, dtype=torch.int64)

    def write(self, rank: int, value: int) -> None:
        """Let a rank say something."""
        host_writes(self._device, self._row(rank))
        self._rows[rank] = value

    def read(self, rank: int) -> int:
        """Take what a rank has said."""
        host_reads(self._device, self._row(rank))
        return int(self._rows[rank])

    def _row(self, rank: int) -> Access:
        return Access(self._name, "row", (rank,), self._rows)


async def run_ranks(rank_main: Callable[[int], Awaitable[Any]]) -> list[Any]:
    """Run all ranks; return what each returned."""
    tasks = []
    for rank in range(NUM_RANKS):
        with rank_scope(rank):
            main = asyncio.ensure_future(rank_main(rank))
        assert isinstance(main, asyncio.Task)
        main.set_name(f"main_{rank}")
        tasks.append(main)
    return await asyncio.gather(*tasks)


async def rank_without_work_skips_the_exchange(trial: Trial, is_fixed: bool) -> Any:
    """Whether there is an exchange is decided by what one rank alone knows."""
    group, mailbox = Group(), Mailbox(trial)

    async def rank_main(rank: int) -> list[int]:
        heard = []
        for step in range(3):
            is_idle = rank == 1 and step == 1
            if is_fixed or not is_idle:
                mailbox.write(rank, 0 if is_idle else 10 * step + rank)
                await group.meet(rank)
                heard.append(mailbox.read(1 - rank))
                await group.meet(rank)
        return heard

    return await run_ranks(rank_main)


async def two_exchanges_in_flight_are_swapped(trial: Trial, is_fixed: bool) -> Any:
    """One rank begins the second exchange first: each takes what the other has yet to write."""
    group = Group()
    boxes = {kind: Mailbox(trial, kind) for kind in ("counts", "votes")}
    values = {"counts": 1, "votes": 2}

    async def gather(kind: str, rank: int, after_s: float) -> int:
        await asyncio.sleep(after_s)
        boxes[kind].write(rank, values[kind])
        await group.meet(rank)
        return boxes[kind].read(1 - rank)

    async def rank_main(rank: int) -> list[int]:
        if is_fixed:
            return [await gather(kind, rank, after_s=0) for kind in boxes]
        turns = boxes if rank == 0 else reversed(list(boxes))
        heard = dict.fromkeys(boxes, 0)
        running = {
            kind: asyncio.create_task(gather(kind, rank, after_s=place))
            for place, kind in enumerate(turns)
        }
        for kind, task in running.items():
            heard[kind] = await task
        return list(heard.values())

    return await run_ranks(rank_main)


async def part_of_a_dead_rank_is_read(trial: Trial, is_fixed: bool) -> Any:
    """The operation says that it is completed, for its peer is gone; success is another matter."""
    group, mailbox = Group(), Mailbox(trial)

    async def rank_main(rank: int) -> str:
        if rank == 1:
            mailbox.write(1, 5)
            return "died"
        exchange = group.enter(rank)
        await asyncio.sleep(1.0)  # by now the connection has broken
        if is_fixed and len(exchange.ranks) < NUM_RANKS:
            return "rank 1 is lost"
        return f"rank 1 says {mailbox.read(1)}"

    return await run_ranks(rank_main)


async def rank_that_stopped_is_waited_for(trial: Trial, is_fixed: bool) -> Any:
    """It has been given up by the others when it goes on, or it never does."""
    group = Group()

    async def rank_main(rank: int) -> str:
        if rank == 1:
            return "stopped"
        try:
            async with asyncio.timeout(1.0 if is_fixed else None):
                await group.meet(rank)
        except TimeoutError:
            return "rank 1 did not come"
        return "met"

    return await run_ranks(rank_main)


async def frame_is_reused_after_the_deadline(trial: Trial, is_fixed: bool) -> Any:
    """To stop waiting is not to stop the exchange: the late rank takes the frame all the same."""
    group = Group()
    frames = Mailbox(trial, "frame"), Mailbox(trial, "new frame")

    async def rank_main(rank: int) -> Any:
        if rank == 1:
            await asyncio.sleep(5.0)
            await group.meet(rank)
            return frames[0].read(0)
        frames[0].write(0, 1)
        exchange = group.enter(rank)
        try:
            async with asyncio.timeout(1.0):
                await exchange.is_over.wait()
        except TimeoutError:
            frames[1 if is_fixed else 0].write(0, 2)
        return "gave up"

    return await run_ranks(rank_main)


def between(earlier: int, later: int) -> str:
    """Match the missing edge, whether the actors are ranks or tasks."""
    return rf"missing: (task \S+ of )?rank {earlier} -> (task \S+ of )?rank {later} \("


MINIATURES = (
    Miniature(
        "R1",
        FoundBy.PROGRESS,
        DeadlockError,
        r"main_0.*meet waits for Event\.wait",
        rank_without_work_skips_the_exchange,
    ),
    Miniature(
        "R3",
        FoundBy.ORDER,
        "WAR",
        r"WAR on (counts|votes)\.row\[[01]\]",
        two_exchanges_in_flight_are_swapped,
    ),
    Miniature(
        "R4",
        FoundBy.ORDER,
        "RAW",
        rf"RAW on mailbox\.row\[1\].*{between(1, 0)}",
        part_of_a_dead_rank_is_read,
    ),
    Miniature(
        "R5",
        FoundBy.PROGRESS,
        DeadlockError,
        r"main_0.*meet waits for Event\.wait",
        rank_that_stopped_is_waited_for,
    ),
    Miniature(
        "R6",
        FoundBy.ORDER,
        "RAW",
        rf"RAW on frame\.row\[0\].*{between(0, 1)}",
        frame_is_reused_after_the_deadline,
    ),
)
