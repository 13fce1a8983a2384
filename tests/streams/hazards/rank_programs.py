"""Random programs of several ranks that share memory and streams, and at times meet."""

from collections.abc import Callable
from contextlib import nullcontext

from streams.hazards import HazardChecker, arrive, depart, handoff, rank_scope
from streams.hazards.tasks import Token
from tests.streams.hazards.closure import Node
from tests.streams.hazards.programs import Program, StrictProgram

__all__ = ["MeetingProgram", "RankProgram", "StrictRankProgram"]

Nodes = frozenset[Node]
NONE: Nodes = frozenset()


class MeetingProgram(Program):
    """Calls of random ranks, and of none; who departs comes after all who arrived.

    Attributes:
        rank: who acts; None outside of all ranks.
        outside: what the next thing that any rank does comes after, as far as is known here.
        seen: what the next thing of each rank comes after; the outside comes after all of it.
    """

    def __init__(self, seed: int, checker: HazardChecker, num_calls: int = 30) -> None:
        self.rank: int | None = None
        self.outside = NONE
        self.seen: dict[int, Nodes] = {}
        super().__init__(seed, checker, num_calls)
        self.ranks: list[int | None] = [None, *range(self.random.randint(1, 3))]
        self.meetings: list[tuple[object, Nodes]] = [(_Meeting(), NONE) for _ in range(2)]

    @property
    def host(self) -> Nodes:
        """What the next thing that is done here comes after."""
        if self.rank is None:
            return self.outside.union(*self.seen.values())
        return self.outside | self.seen.get(self.rank, NONE)

    @host.setter
    def host(self, nodes: Nodes) -> None:
        if self.rank is not None:
            self.seen[self.rank] = nodes
        elif nodes:  # ranks come after these, but not after what ranks did before these
            self.outside = frozenset({self.closure.node(self.outside, alone=nodes)})

    def step(self) -> None:
        """Make one call for whoever acts."""
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

    def _observe(self, nodes: Nodes) -> None:
        if self.rank is None:
            self.outside = frozenset({self.closure.node(self.outside, nodes)})
        else:
            super()._observe(nodes)


class RankProgram(MeetingProgram):
    """One clock per rank; anybody may act at any time."""

    def __init__(self, seed: int, checker: HazardChecker) -> None:
        super().__init__(seed, checker)
        self.boxes: list[tuple[object, Nodes]] = [(_Meeting(), NONE) for _ in range(2)]
        for rank in range(len(self.ranks) - 1):
            with rank_scope(rank):
                arrive(_Meeting())  # begins it: a later one comes after what is forgotten by then

    def step(self) -> None:
        """Make one call for some rank."""
        self.rank = self.random.choice(self.ranks)
        super().step()

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


class StrictRankProgram(MeetingProgram, StrictProgram):
    """Callbacks of ranks, which wake others of their rank, of other ranks and of none."""

    def __init__(self, seed: int, checker: HazardChecker) -> None:
        self.waiting: list[tuple[Token, Nodes, dict[int, Nodes]]] = []
        super().__init__(seed, checker)

    def calls(self) -> list[Callable[[], None]]:
        """Return what may be called; most of it is about callbacks and host accesses."""
        return [*super().calls(), *[self.switch, self.post, self.touch] * 10]

    def post(self) -> None:
        super().post()
        self.waiting.append((self.posted[-1][0], self.outside, dict(self.seen)))

    def switch(self) -> None:
        if not self.waiting:
            return
        token, outside, seen = self.waiting.pop(self.random.randrange(len(self.waiting)))
        self.observer.ran()
        self.observer.running(token)
        if self.random.random() < 0.6:  # a callback in another context than its poster's
            self.rank = self.random.choice(self.ranks)
        else:
            self.rank = token.rank
        self.outside, self.seen = outside, seen
        if self.rank is not None:
            self.outside, self.seen = NONE, {self.rank: self.host}


class _Meeting:
    """Something to meet at."""
