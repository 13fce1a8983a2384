"""Ranks of one loop under faults, in virtual time: all healthy ranks are told, alike, in time."""

import asyncio
import random
from typing import NamedTuple

import pytest

from aio_sched.parallel import (
    InProcessRanks,
    RankGroup,
    RankGroupClosedError,
    RankLostError,
    RankMismatchError,
)
from aio_sched.testing import virtual_run
from streams.hazards import rank_scope
from tests.aio_sched.parallel.conformance import begun
from tests.streams.hazards.shared_memory import Shared

TIMEOUT_S = 2.0
FAULTS = ("dies", "hangs", "skips", "kind", "count", "epoch", "leaves")


class Told(NamedTuple):
    """What a healthy rank was told of a fault, and where it went on."""

    error: str
    ranks: tuple[int, ...]
    waited_s: float
    epoch: int
    rows: tuple[tuple[int, ...], ...]


async def _healthy(group: RankGroup) -> Told:
    """Make exchanges until one fails; then go on with whoever is left."""
    loop = asyncio.get_running_loop()
    while True:
        began_s = loop.time()
        try:
            await asyncio.sleep(0.01)
            await group.gather_info("step", [group.rank])
        except (RankLostError, RankMismatchError) as error:
            waited_s = loop.time() - began_s
            await group.rebuild()
            rows = await group.gather_info("again", [group.epoch, group.rank])
            return Told(type(error).__name__, error.ranks, waited_s, group.epoch, rows)


async def _faulty(ranks: InProcessRanks, rank: int, fault: str, at: int) -> None:
    """Do as the others do, up to step ``at``."""
    group = ranks.groups[rank]
    for _ in range(at):
        await asyncio.sleep(0.01)
        await group.gather_info("step", [rank])
    if fault == "dies":
        ranks.kill(rank)
    elif fault == "hangs":
        ranks.stop(rank)
        await group.gather_info("step", [rank])
    elif fault == "leaves":
        await group.aclose()
    elif fault != "skips":
        group.epoch += fault == "epoch"
        values = [rank] * (2 if fault == "count" else 1)
        await group.gather_info("other" if fault == "kind" else "step", values)


async def _strike(seed: int) -> None:
    dice = random.Random(seed)
    size, fault = dice.randint(2, 8), dice.choice(FAULTS)
    culprit, at = dice.randrange(size), dice.randrange(4)
    ranks = InProcessRanks(size, timeout_s=TIMEOUT_S)
    healthy = [group for group in ranks.groups if group.rank != culprit]
    broken = asyncio.create_task(_faulty(ranks, culprit, fault, at))
    told = await asyncio.gather(*(_healthy(group) for group in healthy))
    broken.cancel()
    await asyncio.wait([broken])
    is_lost = fault in ("dies", "hangs", "skips", "leaves")
    assert {one.error for one in told} == {"RankLostError" if is_lost else "RankMismatchError"}
    if size > 2 or is_lost:  # of two, either may be the odd one
        assert {one.ranks for one in told} == {(culprit,)}
    assert all(one.waited_s <= TIMEOUT_S + 0.02 for one in told)
    assert {one.rows for one in told} == {tuple((1, rank) for rank in range(size - 1))}


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_faults_reach_all_healthy_ranks_alike_and_in_time(first: int) -> None:
    """One kind of error, about one rank, within the deadline; the others go on in one epoch."""
    for seed in range(first, first + 50):
        virtual_run(_strike(seed), seed=seed)


@pytest.mark.slow
def test_faults_reach_all_healthy_ranks_under_ten_thousand_seeds() -> None:
    """The same over many more schedules, sizes and moments."""
    for seed in range(10_000):
        virtual_run(_strike(seed), seed=seed)


def test_a_rank_that_hung_is_told_that_the_others_went_on() -> None:
    """Who comes back after a rebuild belongs to nothing any more, whatever it asks for."""

    async def main() -> None:
        ranks = InProcessRanks(3, timeout_s=TIMEOUT_S)
        late = ranks.groups[1]
        ranks.stop(1)
        waiting = await begun(late.gather_info("step", [1]))
        await asyncio.gather(_healthy(ranks.groups[0]), _healthy(ranks.groups[2]))
        ranks.resume(1)
        with pytest.raises(RankLostError, match="rank 1 of epoch 0 was missing at a rebuild"):
            await waiting
        with pytest.raises(RankLostError, match="went on without"):
            await late.rebuild()
        with pytest.raises(RankGroupClosedError, match="must be rebuilt"):
            await late.gather_info("step", [1])
        assert ranks.groups[2].rank == 1

    virtual_run(main())


def test_a_rebuild_with_too_few_fails_and_may_be_tried_again() -> None:
    """Fewer ranks than ``min_size`` do not go on, until the missing one has come."""

    async def main() -> None:
        ranks = InProcessRanks(2, timeout_s=TIMEOUT_S, min_size=2)
        group, late = ranks.groups
        with pytest.raises(RankLostError, match=r"1 of 2 ranks came .* needs 2"):
            await group.rebuild()
        await asyncio.gather(group.rebuild(), late.rebuild())
        assert (group.size, late.rank) == (2, 1)

    virtual_run(main())


def test_a_rank_cancelled_in_a_rebuild_is_not_waited_for_in_vain() -> None:
    """A rebuild goes on without one that gave up waiting, and takes it in if it comes again."""

    async def main() -> None:
        ranks = InProcessRanks(3, timeout_s=TIMEOUT_S)
        first = await begun(ranks.groups[0].rebuild())
        first.cancel()
        await asyncio.wait([first])
        await asyncio.gather(*(group.rebuild() for group in ranks.groups))
        assert {(group.size, group.epoch) for group in ranks.groups} == {(3, 1)}

    virtual_run(main())


def test_ranks_that_die_in_a_rebuild_are_not_taken_along() -> None:
    """The last one to die ends the rebuild, and who died at the same moment is not in."""

    async def main() -> None:
        ranks = InProcessRanks(4, timeout_s=TIMEOUT_S)
        dying = await begun(ranks.groups[1].rebuild())
        rebuilt = [await begun(ranks.groups[rank].rebuild()) for rank in (0, 3)]
        ranks.kill(1)
        ranks.kill(2)
        await asyncio.gather(*rebuilt)
        with pytest.raises(RankGroupClosedError):
            await dying
        assert (ranks.groups[0].size, ranks.groups[3].rank) == (2, 1)

    virtual_run(main())


def test_killed_ranks_end_their_own_calls() -> None:
    """What a killed rank waits for ends, so that a simulation can end it."""

    async def main() -> None:
        ranks = InProcessRanks(2, timeout_s=TIMEOUT_S)
        waiting = await begun(ranks.groups[0].gather_info("step", [0]))
        ranks.kill(0)
        with pytest.raises(RankGroupClosedError, match="rank 0 is gone"):
            await waiting
        with pytest.raises(RankLostError) as caught:
            await ranks.groups[1].gather_info("step", [1])
        assert caught.value.ranks == (0,)

    virtual_run(main())


@pytest.mark.parametrize(
    ("size", "options"), [(0, {}), (2, {"min_size": 3}), (2, {"timeout_s": 0.0})]
)
def test_impossible_groups_are_refused(size: int, options: dict[str, float]) -> None:
    """Sizes and deadlines out of range are the caller's mistake."""
    with pytest.raises(ValueError, match="use"):
        InProcessRanks(size, **options)  # type: ignore[arg-type]  # names are right, values not


@pytest.mark.parametrize("is_ordered", [True, False])
def test_an_exchange_orders_what_ranks_do_around_it(is_ordered: bool) -> None:
    """For the hazard checker a rank comes after all that others did before an exchange."""
    shared = Shared()

    async def write(group: RankGroup) -> None:
        if not is_ordered:
            await group.gather_info("step", [0])
        shared.write(0)
        if is_ordered:
            await group.gather_info("step", [0])

    async def read(group: RankGroup) -> None:
        await group.gather_info("step", [1])
        await asyncio.sleep(1.0)  # behind the write, but nothing says so
        shared.read(1)

    async def main() -> None:
        first, second = InProcessRanks(2).groups
        with rank_scope(0):
            writing = asyncio.create_task(write(first))
        with rank_scope(1):
            reading = asyncio.create_task(read(second))
        await asyncio.wait([writing, reading])

    virtual_run(main())
    assert shared.found == ([] if is_ordered else [("RAW", "rank 0", "rank 1")])
