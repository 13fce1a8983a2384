"""Ranks that share a process: a clock for each, joined where all of them meet.

A group of ranks in one process says who acts, and brackets each exchange::

    with rank_scope(rank):  # rank: int; tasks made in here inherit it
        arrive(meeting)     # meeting: object, the same one on every rank, new for each exchange
        ...                 # give this rank's part, wait for those of all
        depart(meeting)     # now this rank comes after what each did before it arrived

All three are ``def`` and cheap; without a checker ``arrive`` and ``depart`` do nothing. Ranks
in processes of their own need none of it: they share no memory.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from streams.hazards.meetings import Meetings, arrive, depart, tell_handoffs, tell_meetings
from streams.hazards.order import Clock, HostActor, join

__all__ = [
    "RankHosts",
    "Ranked",
    "Unranked",
    "arrive",
    "current_rank",
    "depart",
    "rank_scope",
]

_rank: ContextVar[int | None] = ContextVar("rank", default=None)


@contextmanager
def rank_scope(rank: int) -> Iterator[None]:
    """Let the code in the block, and the tasks and callbacks that it makes, act for a rank.

    A checker with one clock for the host keeps one for each rank instead, so that ranks which
    touch the same memory need a collective between them (``arrive``, ``depart``), an event or
    ``handoff``: to begin or to end a block orders nothing. Code outside of every block is in
    order with all ranks, as the tasks of one host are, but leads from none to another. A strict
    checker has its clocks by task; a task is its rank's if it was made inside the block, and
    wakes or awaits of tasks of two ranks order nothing.

    Args:
        rank: whose the block is; inside another block the inner one counts.

    Raises:
        ValueError: a negative rank.
    """
    if rank < 0:
        raise ValueError(f"rank={rank} is negative; ranks count from 0")
    former = _rank.set(rank)
    try:
        yield
    finally:
        _rank.reset(former)


def current_rank() -> int | None:
    """Return for which rank the running code acts, if for any."""
    return _rank.get()


class Ranked(HostActor):
    """The host, or a task, as far as it acts for one rank."""

    __slots__ = ("rank",)
    joined_by = "a collective or handoff"

    def __init__(self, actor_id: int, name: str, rank: int) -> None:
        super().__init__(actor_id, name)
        self.rank = rank


class Unranked(HostActor):
    """The host, or a task, outside of all ranks: in order with each of them.

    But no rank comes after another one for its sake: what it saw of ranks it keeps apart.

    Attributes:
        known: its clock without what is there for the ranks' sake. The same object as
            ``clock`` as long as there is nothing of the kind.
        seen: what is there for the sake of each rank, where somebody asks for that.
    """

    __slots__ = ("known", "seen")

    def __init__(self, actor_id: int, name: str) -> None:
        super().__init__(actor_id, name)
        self.known = self.clock
        self.seen: dict[int, Clock] = {}

    def access(self) -> int:
        """Count an access made now."""
        self.known[self.id] = count = super().access()
        return count

    def learn(self, clock: Clock) -> None:
        """Come after ``clock``."""
        join(self.known, clock)
        if self.passed is not None:
            join(self.clock, clock)

    def see(self, rank: int, clock: Clock) -> None:
        """Come after ``clock`` of a rank, without leading any other one there."""
        self.part()
        join(self.seen.setdefault(rank, {}), clock)
        join(self.clock, clock)

    def part(self) -> None:
        """Keep what ranks did apart from now on."""
        if self.passed is None:
            self.clock, self.passed = dict(self.known), self.known


class RankHosts:
    """The host's actors for a checker with one clock per rank; without ranks that is one.

    Args:
        ids: numbers for the actors.
        lock: guards all clocks of the checker.
    """

    def __init__(self, ids: Iterator[int], lock: "threading.RLock") -> None:
        self._ids = ids
        self._lock = lock
        self._ranks: dict[int, Ranked] = {}
        self._outside = Unranked(next(ids), "host")
        self._meetings = Meetings()
        tell_meetings(self)

    def floor(self) -> Clock:
        """Return what every later access comes after, of whichever rank.

        Ranks that begin later are taken for ones that come after it, too.
        """
        if not self._ranks:
            return self._outside.clock
        known = self._outside.known
        first, *others = (actor.clock for actor in self._ranks.values())
        lowest = {a: min([n, *(o.get(a, 0) for o in others)]) for a, n in first.items()}
        return lowest | {a: max(n, lowest.get(a, 0)) for a, n in known.items()}

    def current(self) -> HostActor:
        """Return the actor of whoever calls."""
        rank, outside = _rank.get(), self._outside
        if rank is None:
            for actor in self._ranks.values():
                actor.close_epoch()
                join(outside.clock, actor.clock)
            return outside
        actor = self._ranks.get(rank) or self._begin(rank)
        outside.close_epoch()
        join(actor.clock, outside.known)
        return actor

    def handoff(self, obj: object) -> None:
        """Order a rank behind all that called this with the same object before."""
        if _rank.get() is None:
            return  # it is in order with each rank, and must not lead from one to another
        with self._lock:
            actor = self.current()
            self._meetings.take(obj, actor)
            self._meetings.bring(obj, actor)

    def arrive(self, meeting: object) -> None:
        """Bring to a meeting what the caller comes after."""
        with self._lock:
            self._meetings.bring(meeting, self.current())

    def depart(self, meeting: object) -> None:
        """Order the caller behind all that was brought to a meeting."""
        with self._lock:
            self._meetings.take(meeting, self.current())

    def _begin(self, rank: int) -> Ranked:
        actor = self._ranks[rank] = Ranked(next(self._ids), f"rank {rank}", rank)
        self._outside.part()
        tell_handoffs(self)
        return actor
