"""Random programs of several ranks that share memory and streams, and at times meet."""

from collections.abc import Callable
from contextlib import nullcontext

from streams.hazards import HazardChecker, arrive, depart, handoff, rank_scope
from tests.streams.hazards.closure import Node
from tests.streams.hazards.programs import Program, StrictProgram

__all__ = ["MeetingProgram", "RankProgram", "StrictRankProgram"]

Nodes = frozenset[Node]


class MeetingProgram(Program):
    """Calls of random ranks, and of none; who departs comes after all who arrived."""

    def __init__(self, seed: int, checker: HazardChecker, num_calls: int = 30) -> None:
        self.rank: int | None = None
        super().__init__(seed, checker, num_calls)
        self.ranks: list[int | None] = [None, *range(self.random.randint(1, 3))]
        self.meetings: list[tuple[object, Nodes]] = [(_Meeting(), frozenset()) for _ in range(2)]

    def step(self) -> None:
        """Make one call for some rank."""
        self.rank = self.random.choice(self.ranks)
        with nullcontext() if self.rank is None else rank_scope(self.rank):
            super().step()

    def calls(self) -> list[Callable[[], None]]:
        """Return what may be called; a third is about meetings and host accesses."""
        return [*super().calls(), *[self.arrive, self.arrive, self.depart, self.touch] * 3]

    def arrive(self) -> None:
        at = self.random.randrange(len(self.meetings))
        meeting, nodes = self.meetings[at]
        arrive(meeting)
        self.meetings[at] = (meeting, nodes | self.host)

    def depart(self) -> None:
        meeting, nodes = self.random.choice(self.meetings)
        depart(meeting)
        self._observe(nodes)


class RankProgram(MeetingProgram):
    """One clock per rank: what is outside of them is in order with each, and leads to none."""

    def __init__(self, seed: int, checker: HazardChecker) -> None:
        self.outside: Nodes = frozenset()
        self.hosts: dict[int, Nodes] = {}
        super().__init__(seed, checker)
        self.boxes: list[tuple[object, Nodes]] = [(_Meeting(), frozenset()) for _ in range(2)]
        for rank in range(len(self.ranks) - 1):
            with rank_scope(rank):
                arrive(_Meeting())  # begins it: a later one comes after what is forgotten by then

    @property
    def host(self) -> Nodes:
        """What the next thing that the acting rank does comes after."""
        if self.rank is None:
            return self.outside.union(*self.hosts.values())
        return self.outside | self.hosts.get(self.rank, frozenset())

    @host.setter
    def host(self, nodes: Nodes) -> None:
        if self.rank is not None:
            self.hosts[self.rank] = nodes
        elif nodes:  # ranks come after these, but not after what ranks did before these
            self.outside = frozenset({self.closure.node(self.outside, alone=nodes)})

    def calls(self) -> list[Callable[[], None]]:
        """Return what may be called, hand-overs between ranks as well."""
        return [*super().calls(), *[self.hand_on] * 3]

    def hand_on(self) -> None:
        at = self.random.randrange(len(self.boxes))
        box, nodes = self.boxes[at]
        handoff(box)
        if self.rank is not None:
            self._observe(nodes)
            self.boxes[at] = (box, self.host)

    def _observe(self, nodes: Nodes) -> None:
        if self.rank is None:
            self.outside = frozenset({self.closure.node(self.outside, nodes)})
        else:
            super()._observe(nodes)


class StrictRankProgram(MeetingProgram, StrictProgram):
    """A clock per task: a rank is only a name."""


class _Meeting:
    """Something to meet at."""
