"""Passes of the prefill delayer, for tests: on all ranks of a group, and what they agree on."""

import asyncio
from collections.abc import Sequence

from aio_sched.parallel.delayer import Decision, DelayerLimits
from aio_sched.parallel.exchange import FramedGroup
from aio_sched.parallel.in_process import InProcessRanks
from aio_sched.parallel.prefill_delayer import PrefillDelayer, RankLoad

__all__ = ["BUSY", "LIMITS", "delayers", "make_pass", "num_exchanges", "passes"]

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
