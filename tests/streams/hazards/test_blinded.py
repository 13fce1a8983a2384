"""The comparison with brute force fails as soon as one rule of the checker is taken away."""

from collections.abc import Callable
from typing import Any

import pytest

from streams.hazards import ranks, shadow, tasks
from streams.hazards.order import Clock, HostActor, Order, StreamActor
from streams.hazards.ranks import Ranked, RankHosts, Unranked
from streams.hazards.shadow import Cell, Use
from streams.hazards.tasks import TaskHosts, Token
from tests.streams.hazards.programs import Program, StrictProgram
from tests.streams.hazards.rank_programs import RankProgram, StrictRankProgram
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


def begin_alone(self: RankHosts, rank: int) -> HostActor:
    """Let what is outside of the ranks lead from one to another."""
    with pytest.MonkeyPatch.context() as without:
        without.setattr(Unranked, "part", lambda self: None)
        return begin(self, rank)


def current_without_outside(self: RankHosts) -> HostActor:
    """Lose what the outside did for the ranks, and they for it."""
    rank = ranks._rank.get()
    if rank is None:
        return self._outside
    return self._ranks.get(rank) or self._begin(rank)


def arrive_behind_others(self: RankHosts | TaskHosts, meeting: object) -> None:
    """Take a collective for a chain: who comes is behind those who came before."""
    self._meetings.take(meeting, self.current())
    self._meetings.bring(meeting, self.current())


order_launch, unordered, begin = Order.launch, Cell._unordered, RankHosts._begin
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
    (TaskHosts, "arrive", lambda self, meeting: None, StrictRankProgram),
    (TaskHosts, "depart", lambda self, meeting: None, StrictRankProgram),
    (TaskHosts, "arrive", arrive_behind_others, StrictRankProgram),
    (Unranked, "see", lambda self, rank, clock: None, StrictRankProgram),
    (Unranked, "access", HostActor.access, StrictRankProgram),
    (RankHosts, "arrive", lambda self, meeting: None, RankProgram),
    (RankHosts, "depart", lambda self, meeting: None, RankProgram),
    (RankHosts, "arrive", arrive_behind_others, RankProgram),
    (RankHosts, "handoff", lambda self, obj: None, RankProgram),
    (RankHosts, "current", lambda self: self._outside, RankProgram),
    (RankHosts, "current", current_without_outside, RankProgram),
    (RankHosts, "_begin", begin_alone, RankProgram),
]


def follow_across_ranks(actor: Ranked | Unranked, token: Token) -> None:
    """Let a wake-up order whoever is woken, of whichever rank."""
    actor.learn(token.clock)


def test_wake_up_that_leads_from_rank_to_rank_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ranks are processes it wakes nobody."""
    monkeypatch.setattr(tasks, "_follow", follow_across_ranks)
    with pytest.raises(AssertionError, match="not reported"):
        compare(StrictRankProgram, range(600))


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


def test_floor_that_only_one_rank_has_reached_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one rank has seen another one may still race with."""
    monkeypatch.setattr(shadow, "_PRUNE_FROM", 1)
    monkeypatch.setattr(RankHosts, "floor", lambda self: self._outside.clock)
    with pytest.raises(AssertionError, match="not reported"):
        compare(RankProgram, range(600))
