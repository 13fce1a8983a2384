"""Whatever one rank does, all others end in time, and with a reason that names it."""

import asyncio
import enum
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from aio_sched.engine.errors import RequestFailedError
from aio_sched.engine.requests import FinishReason, Request
from aio_sched.errors import SchedulerClosedError
from aio_sched.parallel.consensus import RankDivergedError
from aio_sched.parallel.delayer import DelayerLimits, RankReport
from aio_sched.parallel.engine import DataParallelEngine
from aio_sched.parallel.errors import RankLostError, RankMismatchError
from aio_sched.parallel.global_batch import RankState
from tests.aio_sched.engine.tiny import assert_at_rest, rigged
from tests.aio_sched.parallel.engines import (
    SIZES,
    Exchange,
    ServedRank,
    Traffic,
    read_all,
    run_ranks,
)

TIMEOUT_S = 0.5
Gather = Callable[..., Awaitable[tuple[tuple[int, ...], ...]]]
DELAYER = DelayerLimits(SIZES["max_running"], enabled=True, max_passes=4)


class Misdeed(enum.Enum):
    """What a rank does instead of its next exchange."""

    DIES = "dies"
    HANGS = "hangs"
    SKIPS = "skips an exchange"
    OTHER_KIND = "sends another kind"
    OTHER_SIZE = "sends another size"
    MISREADS = "reads other values than were gathered"


@dataclass
class Run:
    """One run with a rank that misbehaves.

    Attributes:
        struck_s: when it did; None if the run ended before.
        ended_s: when each rank's engine had ended, by rank.
        requests: of each rank.
        exchanges: of each rank.
        engines: of each rank.
        errors: what each rank's engine raised.
    """

    num_ranks: int
    odd: int
    misdeed: Misdeed
    nth: int
    struck_s: float | None = None
    ended_s: dict[int, float] = field(default_factory=dict)
    requests: dict[int, list[Request]] = field(default_factory=dict)
    exchanges: dict[int, list[Exchange]] = field(default_factory=dict)
    engines: dict[int, DataParallelEngine] = field(default_factory=dict)
    errors: list[BaseException | None] = field(default_factory=list)

    @property
    def healthy(self) -> list[int]:
        """All ranks but the one that misbehaves."""
        return [rank for rank in range(self.num_ranks) if rank != self.odd]

    def prepare(self, served: ServedRank) -> None:
        """Let the rank that is to misbehave do so at its exchange of the chosen number."""
        group = served.engine.pipeline.group
        gather_info, num_calls = group.gather_info, 0

        async def gather(
            kind: str, values: Sequence[int], *, timeout: float | None = None
        ) -> tuple[tuple[int, ...], ...]:
            nonlocal num_calls
            num_calls += 1
            if num_calls != self.nth:
                return await gather_info(kind, values, timeout=timeout)
            self.struck_s = asyncio.get_running_loop().time()
            return await self._misbehave(served, gather_info, kind, tuple(values))

        group.gather_info = gather  # type: ignore[method-assign]  # a fault

    async def _misbehave(
        self, served: ServedRank, gather_info: Gather, kind: str, values: tuple[int, ...]
    ) -> tuple[tuple[int, ...], ...]:
        match self.misdeed:
            case Misdeed.DIES:
                served.ranks.kill(self.odd)
            case Misdeed.HANGS:
                served.ranks.stop(self.odd)
                loop = asyncio.get_running_loop()
                loop.call_later(4 * TIMEOUT_S, served.ranks.resume, self.odd)
            case Misdeed.SKIPS:
                return (values,) * self.num_ranks
            case Misdeed.OTHER_KIND:
                return await gather_info("odd", values)
            case Misdeed.OTHER_SIZE:
                return await gather_info(kind, (*values, 0))
            case Misdeed.MISREADS:
                rows = await gather_info(kind, values)
                return misread(rows) if kind == "batch" else rows
        return await gather_info(kind, values)

    def assert_well_ended(self) -> None:
        """Every healthy rank ended in time, by an error that names the other one."""
        for rank in self.healthy:
            assert_at_rest(self.engines[rank])
            self._assert_same_exchanges(rank)
            for request in self.requests[rank]:
                assert request.finish is not None
            if self.struck_s is None or self.errors[rank] is None:
                assert all(r.finish is FinishReason.LENGTH for r in self.requests[rank]), self
                continue
            self._assert_names_it(self.errors[rank])
            for request in self.requests[rank]:
                if request.finish is FinishReason.ERROR:
                    assert request.error is self.errors[rank]
            assert self.ended_s[rank] <= self.struck_s + TIMEOUT_S + 0.2, self

    def _assert_same_exchanges(self, rank: int) -> None:
        first = self.exchanges[self.healthy[0]]
        for ours, theirs in zip(self.exchanges[rank], first, strict=False):
            assert ours == theirs
        assert abs(len(self.exchanges[rank]) - len(first)) <= 1

    def _assert_names_it(self, error: BaseException | None) -> None:
        assert isinstance(error, RankLostError | RankMismatchError), self
        is_named = self.odd in error.ranks and f"rank {self.odd}" in str(error)
        # Of two that differ, nobody can say which one is right.
        assert is_named or (self.num_ranks == 2 and error.ranks), (self, str(error))


def misread(rows: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Return rows in which the last rank wants no overlap, or wants it."""
    *others, last = rows
    place = RankState._fields.index("overlap_off")
    return (*others, (*last[:place], 1 - last[place], *last[place + 1 :]))


def traffic_of(run: Run) -> Traffic[None]:
    """Return traffic that comes at random moments and does not mind failures."""

    async def traffic(served: ServedRank) -> None:
        rank = served.number
        if rank == run.odd:
            run.prepare(served)
        run.exchanges[rank], run.engines[rank] = served.exchanges, served.engine
        requests = run.requests[rank] = []
        dice = random.Random(f"traffic/{rank}")
        try:
            for number in range(3):
                await asyncio.sleep(dice.uniform(0, 0.003))
                requests.append(served.submit([1 + number, 2, 3, 4, 5], dice.randint(1, 4)))
        except SchedulerClosedError:
            assert run.struck_s is not None, "nothing else can stop an engine here"
        await asyncio.gather(
            *(read_all(served, [request]) for request in requests), return_exceptions=True
        )
        loop = asyncio.get_running_loop()
        run.ended_s[rank] = loop.time()

    return traffic


def simulated(seed: int) -> Run:
    """Run 2 to 8 ranks of which one misbehaves in one exchange; the seed chooses all."""
    dice = random.Random(f"rank faults/{seed}")
    num_ranks = dice.randint(2, 8)
    run = Run(num_ranks, dice.randrange(num_ranks), dice.choice([*Misdeed]), dice.randint(1, 20))
    options: dict[str, Any] = {"delayer": dice.choice([None, DELAYER]), "model": rigged()}
    options["overlap"] = dice.random() < 0.7
    ended = run_ranks(
        num_ranks,
        traffic_of(run),
        seed=seed,
        timeout_s=TIMEOUT_S,
        profile=dice.choice(["random", "friendly"]),
        options=lambda rank: options,
    )
    run.errors = ended
    return run


def check(seeds: range) -> None:
    """Run many, and see that most of them met their fault, of every kind."""
    runs = [simulated(seed) for seed in seeds]
    for run in runs:
        run.assert_well_ended()
    struck = [run for run in runs if run.struck_s is not None]
    assert len(struck) > 0.6 * len(runs)
    found = {(run.misdeed, type(error)) for run in struck for error in run.errors}
    assert found >= {
        (Misdeed.DIES, RankLostError),
        (Misdeed.HANGS, RankLostError),
        (Misdeed.SKIPS, RankMismatchError),
        (Misdeed.OTHER_KIND, RankMismatchError),
        (Misdeed.OTHER_SIZE, RankMismatchError),
        (Misdeed.MISREADS, RankDivergedError),
    }


def test_rank_that_misbehaves_is_named_and_nobody_hangs() -> None:
    """Of 2 to 8 ranks one dies, hangs, skips, sends or reads something else."""
    check(range(50))


def test_rank_that_decides_otherwise_about_prefills_is_named() -> None:
    """Though it runs what the others run: its next such decision might let them wait for it."""

    async def traffic(served: ServedRank) -> None:
        group = served.engine.pipeline.group
        gather_info = group.gather_info

        async def gather(kind: str, values: Any, **options: Any) -> Any:
            rows = await gather_info(kind, values, **options)
            return tuple((0, *row[1:]) for row in rows) if kind == "prefill" else rows

        if served.number == 2:  # to it, no rank ever has a prompt
            group.gather_info = gather  # type: ignore[method-assign]  # a fault
        await asyncio.sleep(0.001 * served.number)
        if served.number < 2:
            await read_all(served, [served.submit([1, 2, 3], 30)])
        await asyncio.sleep(1.0)

    assert RankReport._fields[0] == "prefillable"
    errors = run_ranks(3, traffic, options=lambda rank: {"delayer": DELAYER})
    for error in errors[:2]:
        assert isinstance(error, RequestFailedError)
        assert isinstance(error.__cause__, RankDivergedError)
        assert error.__cause__.ranks == (2,)
    assert isinstance(errors[2], RankDivergedError)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_rank_that_misbehaves_is_named_a_thousand_times() -> None:
    """The same with other seeds."""
    check(range(1000, 2000))
