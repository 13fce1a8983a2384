"""Happens-before by brute force: every node keeps the set of all nodes before it."""

from typing import NamedTuple

__all__ = ["Closure", "Node", "Touch"]

Node = int


class Touch(NamedTuple):
    """One access of a program: by which operation, to which elements of which storage."""

    op: int
    node: Node
    storage: int
    elements: frozenset[int]
    is_write: bool


class Closure:
    """A graph that is built in the order of the calls, so that edges only lead back."""

    def __init__(self) -> None:
        self._before: list[frozenset[Node]] = []
        self.touches: list[Touch] = []

    def node(self, *after: frozenset[Node], alone: frozenset[Node] = frozenset()) -> Node:
        """Add a node behind all nodes of the given sets, and all before those.

        Behind the nodes of ``alone`` it comes, but not for their sake behind those before them.
        """
        direct = frozenset().union(*after)
        self._before.append(alone.union(direct, *(self._before[node] for node in direct)))
        return len(self._before) - 1

    def races(self) -> set[tuple[int, int, int, str]]:
        """Return (earlier op, later op, storage, kind) of all unordered conflicts."""
        found: set[tuple[int, int, int, str]] = set()
        for at, later in enumerate(self.touches):
            for earlier in self.touches[:at]:
                if earlier.op != later.op and self._race(earlier, later):
                    kind = ("RAW", "WAR", "WAW")[
                        later.is_write + (later.is_write & earlier.is_write)
                    ]
                    found.add((earlier.op, later.op, later.storage, kind))
        return found

    def _race(self, earlier: Touch, later: Touch) -> bool:
        return (
            earlier.storage == later.storage
            and (earlier.is_write or later.is_write)
            and earlier.node not in self._before[later.node]
            and not earlier.elements.isdisjoint(later.elements)
        )
