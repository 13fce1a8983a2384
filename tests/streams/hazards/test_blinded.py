"""The comparison with brute force fails as soon as one rule of the checker is taken away."""

from collections.abc import Callable
from typing import Any

import pytest

from streams.hazards.order import Clock, HostActor, Order, StreamActor
from streams.hazards.shadow import Cell, Use
from streams.hazards.tasks import TaskHosts, Token
from tests.streams.hazards.programs import Program, StrictProgram
from tests.streams.hazards.test_oracle import compare

access = Cell.access


def launch_without_host(self: Order, event: Any, host: HostActor) -> StreamActor:
    """Lose host -> stream."""
    return order_launch(self, event, HostActor(0, "nobody"))


def record_without_others(self: Order, event: Any) -> None:
    """Lose what a stream waited for when it records."""
    event.clocks = {self: {self.stream(event.stream).id: event.number}}


def drain_with_waits(self: Order, event: Any) -> None:
    """Take waits that no operation stands behind for done."""
    event.clocks = {self: dict(self.stream(event.stream).clock)}


def access_without_neighbours(self: Cell, use: Use, clock: Clock) -> list[Use]:
    """Compare accesses to equal ranges only."""
    neighbours, self.neighbours = self.neighbours, []
    found = access(self, use, clock)
    self.neighbours = neighbours
    return found


def access_keeping_the_last_write(self: Cell, use: Use, clock: Clock) -> list[Use]:
    """Forget writes and reads that raced with a later write."""
    found = access(self, use, clock)
    if use.is_write:
        self.writes, self.reads = {use.actor.id: use}, {}
    return found


def no_reads(self: Cell, use: Use, clock: Clock) -> list[Use]:
    """Compare with writes only."""
    return [u for u in self.writes.values() if clock.get(u.actor.id, 0) < u.epoch]


def no_check_of_reads(self: Cell, use: Use, clock: Clock) -> list[Use]:
    """Check writes only."""
    return unordered(self, use, clock) if use.is_write else []


order_launch, unordered = Order.launch, Cell._unordered
BLINDINGS: list[tuple[type, str, Callable[..., Any], type[Program]]] = [
    (Order, "launch", launch_without_host, Program),
    (Order, "record", record_without_others, Program),
    (Order, "drain", drain_with_waits, Program),
    (Order, "wait", lambda self, stream, event: None, Program),
    (Order, "observe", lambda self, event, host: None, Program),
    (Cell, "access", access_without_neighbours, Program),
    (Cell, "access", access_keeping_the_last_write, Program),
    (Cell, "_unordered", no_reads, Program),
    (Cell, "_unordered", no_check_of_reads, Program),
    (HostActor, "release", lambda self: dict(self.clock), StrictProgram),
    (TaskHosts, "handoff", lambda self, obj: None, StrictProgram),
    (TaskHosts, "posted", lambda self, callback: Token({}, None, ""), StrictProgram),
]


@pytest.mark.parametrize(
    ("owner", "rule", "blinded", "kind"),
    BLINDINGS,
    ids=lambda value: getattr(value, "__name__", value),
)
def test_blinded_checker_disagrees_with_the_closure(
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    rule: str,
    blinded: Callable[..., Any],
    kind: type[Program],
) -> None:
    """A rule whose loss nobody notices would be no rule."""
    monkeypatch.setattr(owner, rule, blinded)
    with pytest.raises(AssertionError, match="seed"):
        compare(kind, range(600))
