"""What the ranks of a group make of one step together: a pure policy from gathered integers.

Each rank states what it would run; from all the statements each rank derives the same
``GlobalBatch``. Nothing else may decide how many collectives a rank takes part in.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aio_sched.parallel.slices import Layout, local_slice

__all__ = ["Farewell", "GlobalBatch", "Mode", "RankState", "SyncPolicy", "complaint", "merge"]


class Mode(enum.IntEnum):
    """What a rank would run; the mode of a group is the largest of its ranks'."""

    IDLE = 0
    DECODE = 1
    PREFILL = 2


class Farewell(enum.IntEnum):
    """Whether a rank goes on taking part."""

    STAYS = 0
    WANTS_TO_GO = 1
    """It has no more work of its own, and goes when all want to."""
    GOES = 2
    """This exchange is its last one."""


class RankState(NamedTuple):
    """What one rank states in a step: integers, since that is what travels.

    Attributes:
        tokens: tokens that its batch reads; 0 if it is idle.
        mode: a ``Mode``.
        is_extend: 1 if any row of its batch reads more than one token of a prompt.
        can_graph: its vote: 1 if its batch can replay a captured decode graph. Being idle is
            no reason against it.
        overlap_off: 1 if this step must not overlap with its neighbours, on any rank.
        has_more: 1 if it has work that is not in this batch and that no wake-up will tell of.
        farewell: a ``Farewell``.
    """

    tokens: int = 0
    mode: int = Mode.IDLE
    is_extend: int = 0
    can_graph: int = 1
    overlap_off: int = 0
    has_more: int = 0
    farewell: int = Farewell.STAYS


@dataclass(frozen=True)
class SyncPolicy:
    """Settings that every rank must have alike.

    Attributes:
        consecutive_prefill_overlap: False lets a prefill that follows a prefill run alone, on
            all ranks: the first tokens of the former come out before the next is launched.
        graph_rows: rows per rank for which decode graphs exist; none by default.

    Raises:
        ValueError: a number of rows below 1.
    """

    consecutive_prefill_overlap: bool = True
    graph_rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(rows < 1 for rows in self.graph_rows):
            raise ValueError(f"graph_rows={self.graph_rows}: a graph has at least one row")


@dataclass(frozen=True)
class GlobalBatch:
    """What holds for all ranks in one step.

    Attributes:
        counts: tokens of each rank, by rank.
        mode: the largest of all.
        is_extend: whether any rank extends.
        stride: rows per rank of the decode graph that all replay; None: no graph. Every
            rank's batch is padded to it.
        overlap: whether the step may share the device with its neighbours.
        has_more: whether an idle rank holds work back.
        parting: ranks for which this was the last exchange.
    """

    counts: tuple[int, ...]
    mode: Mode
    is_extend: bool
    stride: int | None
    overlap: bool
    has_more: bool
    parting: tuple[int, ...]

    @property
    def is_idle(self) -> bool:
        """Whether no rank runs anything; otherwise those without work run an idle batch."""
        return self.mode is Mode.IDLE

    @property
    def can_sleep(self) -> bool:
        """Whether there is nothing to do until a rank rings."""
        return self.is_idle and not self.has_more and not self.parting

    @property
    def layout(self) -> Layout:
        """How the rows of all ranks lie where they are gathered."""
        return Layout.EAGER if self.stride is None else Layout.DECODE_GRAPH

    def rows_of(self, rank: int) -> slice:
        """Return where the rows of ``rank`` lie in a batch gathered from all ranks."""
        return local_slice(rank, self.counts, self.layout, stride=self.stride)

    def values(self) -> tuple[int, ...]:
        """Return everything as integers, to be compared between ranks."""
        stride = -1 if self.stride is None else self.stride
        flags = (self.mode, self.is_extend, stride, self.overlap, self.has_more)
        return (*self.counts, *map(int, flags), *self.parting)


def merge(
    states: Sequence[RankState | None], policy: SyncPolicy, former: GlobalBatch | None
) -> GlobalBatch:
    """Derive from what all ranks state what holds for all of them.

    Args:
        states: by rank; None is a rank that has nothing to state, and so is idle.
        policy: the same on every rank.
        former: what ``merge`` returned for the step before; None for the first.

    Raises:
        ValueError: there are no ranks.
    """
    if not states:
        raise ValueError("no rank has stated anything; gather the states of the group first")
    known = [RankState() if state is None else state for state in states]
    is_extend = any(state.is_extend for state in known)
    is_off = any(state.overlap_off for state in known)
    if is_extend and former is not None and former.is_extend:
        is_off = is_off or not policy.consecutive_prefill_overlap
    return GlobalBatch(
        counts=tuple(state.tokens for state in known),
        mode=Mode(max(state.mode for state in known)),
        is_extend=is_extend,
        stride=_stride(known, policy),
        overlap=not is_off,
        has_more=any(state.has_more for state in known),
        parting=_parting(known),
    )


def complaint(state: RankState) -> str:
    """Return what cannot be true of a statement; empty if all of it can."""
    if state.mode not in tuple(Mode):
        return f"mode {state.mode} is none of {[int(mode) for mode in Mode]}"
    if state.farewell not in tuple(Farewell):
        return f"farewell {state.farewell} is none of {[int(each) for each in Farewell]}"
    if state.tokens < 0 or (state.tokens > 0) is not (state.mode > Mode.IDLE):
        return f"{state.tokens} tokens in mode {Mode(state.mode).name}"
    flags = ("is_extend", "can_graph", "overlap_off", "has_more")
    wrong = [name for name in flags if getattr(state, name) not in (0, 1)]
    return f"{wrong[0]}={getattr(state, wrong[0])} is neither 0 nor 1" if wrong else ""


def _stride(states: Sequence[RankState], policy: SyncPolicy) -> int | None:
    """Choose the smallest graph that fits the largest rank, if all vote for one."""
    if not all(state.can_graph and not state.is_extend for state in states):
        return None
    needed = max(1, *(state.tokens for state in states))
    return min((rows for rows in policy.graph_rows if rows >= needed), default=None)


def _parting(states: Sequence[RankState]) -> tuple[int, ...]:
    if all(state.farewell for state in states):
        return tuple(range(len(states)))
    return tuple(rank for rank, each in enumerate(states) if each.farewell == Farewell.GOES)
