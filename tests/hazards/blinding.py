"""Ways to blind the hazard checker, a rule at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

from torch import Tensor

from streams.event import Event
from streams.hazards import Access, HazardChecker
from streams.hazards.order import Clock, HostActor, Order, StreamActor
from streams.hazards.ranks import RankHosts
from streams.hazards.shadow import Cell, Memory, Piece, Use
from streams.hazards.tasks import TaskHosts

__all__ = ["BLINDINGS", "Blinding", "blinded"]

_launch, _access, _pieces = Order.launch, Cell.access, Memory.pieces


class Blinding(NamedTuple):
    """A rule of the checker, and what stands in its place.

    Attributes:
        owner: has the rule.
        rule: the method.
        instead: stands in its place.
        is_strict: whether it is one of a checker with a clock per task.
    """

    owner: type
    rule: str
    instead: Callable[..., Any]
    is_strict: bool = True


@contextmanager
def blinded(name: str) -> Iterator[None]:
    """Take a rule away while the block lasts."""
    blinding = BLINDINGS[name]
    with mock.patch.object(blinding.owner, blinding.rule, blinding.instead):
        yield


def _launch_without_host(self: Order, event: Event, host: HostActor) -> StreamActor:
    return _launch(self, event, HostActor(0, "nobody"))


def _record_without_waits(self: Order, event: Event) -> None:
    event.clocks = {self: {self.stream(event.recorded_on()).id: event.number}}


def _no_reads(self: Cell, use: Use, clock: Clock) -> list[Use]:
    return _access(self, use, clock) if use.is_write else []


def _no_writes(self: Cell, use: Use, clock: Clock) -> list[Use]:
    return [] if use.is_write else _access(self, use, clock)


def _no_neighbours(self: Cell, use: Use, clock: Clock) -> list[Use]:
    neighbours, self.neighbours = self.neighbours, []
    try:
        return _access(self, use, clock)
    finally:
        self.neighbours = neighbours


def _no_rows(self: Memory, memory: Tensor | Access) -> list[Piece]:
    return _pieces(self, memory.memory if isinstance(memory, Access) else memory)


def _nothing(*args: object, **kwargs: object) -> None:
    """Look away."""


BLINDINGS = {
    "launch": Blinding(Order, "launch", _launch_without_host),
    "record": Blinding(Order, "record", _record_without_waits),
    "wait": Blinding(Order, "wait", _nothing),
    "observe": Blinding(Order, "observe", _nothing),
    "reads": Blinding(Cell, "access", _no_reads),
    "writes": Blinding(Cell, "access", _no_writes),
    "ranges that overlap": Blinding(Cell, "access", _no_neighbours),
    "rows": Blinding(Memory, "pieces", _no_rows),
    "the host's accesses": Blinding(HazardChecker, "on_host_access", _nothing),
    "what is given back": Blinding(HazardChecker, "on_free", _nothing),
    "misuse": Blinding(HazardChecker, "on_misuse", _nothing),
    "a clock per task": Blinding(TaskHosts, "current", lambda self: self._outside),
    "hand-overs": Blinding(TaskHosts, "handoff", _nothing),
    "collectives of tasks": Blinding(TaskHosts, "depart", _nothing),
    "collectives": Blinding(RankHosts, "depart", _nothing, is_strict=False),
    "a clock per rank": Blinding(RankHosts, "current", lambda self: self._outside, is_strict=False),
}
