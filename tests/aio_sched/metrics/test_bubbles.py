"""Idle time of the forward stream, by cause, against hand-made and random timelines."""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aio_sched.metrics.bubbles import (
    Cause,
    ForwardLedger,
    IssuerState,
    issuer_state,
    split_gap,
)

IDLE, PREPARE, FORWARD, ROOM, STOPPED = IssuerState


def test_unknown_state_is_refused_with_the_known_ones() -> None:
    """A state that is none says which ones there are."""
    with pytest.raises(ValueError, match=r"'sleeping' is unknown.*'idle'.*'stopped'"):
        issuer_state("sleeping")
    assert issuer_state("room") is ROOM


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (IDLE, Cause.EMPTY_QUEUE),
        (PREPARE, Cause.HOST_PREPARE),
        (FORWARD, Cause.HOST_PREPARE),
        (ROOM, Cause.PUBLISH),
    ],
)
def test_gap_is_blamed_on_what_the_issuer_did(state: IssuerState, cause: Cause) -> None:
    """Each state of the issuer stands for one cause."""
    assert list(split_gap(2.0, 5.0, inf, [(0.0, state)])) == [(2.0, 5.0, cause)]


def test_gap_across_states_is_split_where_they_change() -> None:
    """Changes before and after the gap do not matter, those within it divide it."""
    states = [(0.0, FORWARD), (1.0, ROOM), (3.0, PREPARE), (4.0, FORWARD), (9.0, IDLE)]
    assert list(split_gap(2.0, 6.0, inf, states)) == [
        (2.0, 3.0, Cause.PUBLISH),
        (3.0, 4.0, Cause.HOST_PREPARE),
        (4.0, 6.0, Cause.HOST_PREPARE),
    ]


def test_gap_after_issue_is_the_devices() -> None:
    """Once the launch was issued, neither host nor queue is to blame."""
    states = [(0.0, PREPARE), (4.0, ROOM)]
    assert list(split_gap(2.0, 7.0, 3.0, states)) == [
        (2.0, 3.0, Cause.HOST_PREPARE),
        (3.0, 7.0, Cause.DEVICE),
    ]
    assert list(split_gap(2.0, 7.0, 1.0, states)) == [(2.0, 7.0, Cause.DEVICE)]


def test_gap_while_stopped_has_no_cause() -> None:
    """Time after a stop counts as nothing."""
    states = [(0.0, ROOM), (3.0, STOPPED), (5.0, IDLE)]
    assert list(split_gap(2.0, 6.0, inf, states)) == [
        (2.0, 3.0, Cause.PUBLISH),
        (5.0, 6.0, Cause.EMPTY_QUEUE),
    ]


def test_gap_without_any_state_counts_as_empty_queue() -> None:
    """Nobody is blamed for what nobody reported."""
    assert list(split_gap(0.0, 1.0, inf, [])) == [(0.0, 1.0, Cause.EMPTY_QUEUE)]


def test_empty_gap_has_no_pieces() -> None:
    """A stream that went on at once, or seems to have gone on before, waited for nothing."""
    states = [(0.0, ROOM), (2.0, PREPARE)]
    assert list(split_gap(2.0, 2.0, 1.0, states)) == []
    assert list(split_gap(3.0, 2.0, inf, states)) == []


def test_two_steps_with_slow_host_add_up() -> None:
    """Busy time, host time and the tail account for every second from the first launch on."""
    ledger = ForwardLedger()
    ledger.state(PREPARE, 0.0)
    ledger.state(FORWARD, 10.0)
    ledger.issue(1, 11.0)
    ledger.state(ROOM, 12.0)
    ledger.ran(1, 13.0, 20.0)
    ledger.state(PREPARE, 22.0)
    ledger.state(FORWARD, 25.0)
    ledger.issue(2, 26.0)
    ledger.ran(2, 26.0, 36.0)
    ledger.state(IDLE, 30.0)
    ledger.settle(40.0)
    assert ledger.started_s == 11.0
    assert ledger.busy_s == 17.0
    assert ledger.idle_s == {
        Cause.DEVICE: 2.0,
        Cause.PUBLISH: 2.0,
        Cause.HOST_PREPARE: 4.0,
        Cause.EMPTY_QUEUE: 4.0,
    }


def test_outstanding_launch_holds_back_the_time_since_its_issue() -> None:
    """It may be running since, so that time is no bubble yet."""
    ledger = ForwardLedger()
    ledger.state(FORWARD, 0.0)
    ledger.issue(1, 1.0)
    ledger.settle(9.0)
    assert ledger.until_s == 1.0
    assert sum(ledger.idle_s.values()) == 0.0
    assert ledger.is_outstanding


def test_run_that_seems_to_begin_too_early_is_counted_once() -> None:
    """Where the device's clock jitters, busy time is not counted twice."""
    ledger = ForwardLedger()
    ledger.issue(1, 0.0)
    ledger.issue(2, 0.0)
    assert ledger.ran(1, 0.0, 5.0) == (0.0, 5.0)
    assert ledger.ran(2, 4.0, 7.0) == (5.0, 7.0)
    assert ledger.busy_s == 7.0


def test_run_without_known_issue_begins_the_account() -> None:
    """A ledger that came late to a running device starts with what it first hears of."""
    ledger = ForwardLedger()
    assert ledger.ran(7, 3.0, 5.0) == (3.0, 5.0)
    assert (ledger.started_s, ledger.busy_s) == (3.0, 2.0)


def test_launch_that_never_ran_is_skipped_by_the_next_one() -> None:
    """A number without a run does not hold the account back for ever."""
    ledger = ForwardLedger()
    ledger.state(ROOM, 0.0)
    ledger.issue(1, 0.0)
    ledger.issue(2, 4.0)
    ledger.ran(2, 5.0, 6.0)
    assert not ledger.is_outstanding
    assert ledger.idle_s[Cause.PUBLISH] == 4.0
    assert ledger.idle_s[Cause.DEVICE] == 1.0


def test_idle_for_long_keeps_a_single_state() -> None:
    """Wake-ups of an empty queue do not pile up."""
    ledger = ForwardLedger()
    ledger.issue(1, 0.0)
    ledger.ran(1, 0.0, 1.0)
    for turn in range(5000):
        ledger.state(PREPARE, 1.0 + turn)
        ledger.state(IDLE, 1.25 + turn)
    assert len(ledger._states) == 1
    assert ledger.idle_s[Cause.HOST_PREPARE] == 1250.0
    assert ledger.idle_s[Cause.EMPTY_QUEUE] == 4999 * 0.75


class Run(NamedTuple):
    """One launch of a random timeline; all times are whole numbers."""

    issued: int
    start: int
    end: int
    told: int


class Timeline(NamedTuple):
    """What really happened, and up to when the ledger is told."""

    states: list[tuple[int, IssuerState]]
    runs: list[Run]
    now: int


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """Draw an issuer that does anything, and a device that runs what it is given in order."""
    small = st.integers(0, 6)
    at, states = 0, [(0, draw(st.sampled_from(IssuerState)))]
    for _ in range(draw(st.integers(0, 12))):
        at += draw(small)
        states.append((at, draw(st.sampled_from(IssuerState))))
    issued, free, told = 0, 0, 0
    runs: list[Run] = []
    for _ in range(draw(st.integers(1, 8))):
        issued += draw(small)
        start = max(issued, free) + draw(st.sampled_from([0, 0, 1, 4]))
        free = start + draw(small)
        told = max(told, free) + draw(st.sampled_from([0, 0, 3, 9]))
        runs.append(Run(issued, start, free, told))
    return Timeline(states, runs, draw(st.integers(runs[0].issued, max(told, at) + 5)))


def tell(timeline: Timeline) -> ForwardLedger:
    """Let a ledger live through a timeline, in the order in which things become known."""
    calls: list[tuple[int, int, int, int]] = []
    calls += [(at, 0, 0, number) for number, (at, _) in enumerate(timeline.states)]
    calls += [(run.issued, 1, 0, number) for number, run in enumerate(timeline.runs)]
    calls += [(run.told, 2, 0, number) for number, run in enumerate(timeline.runs)]
    ledger = ForwardLedger()
    for at, what, _, number in sorted(calls):
        if at > timeline.now:
            break
        if what == 0:
            ledger.state(timeline.states[number][1], at)
        elif what == 1:
            ledger.issue(number, at)
        else:
            ledger.ran(number, timeline.runs[number].start, timeline.runs[number].end)
    ledger.settle(timeline.now)
    return ledger


def count_each_tick(timeline: Timeline) -> dict[str, int]:
    """Do the account the slow way: look at every unit of time by itself."""
    told = [run for run in timeline.runs if run.told <= timeline.now]
    pending = [run for run in timeline.runs[len(told) :] if run.issued <= timeline.now]
    until = timeline.now
    if pending:
        until = max(told[-1].end if told else 0, pending[0].issued)
    counts = dict.fromkeys([*Cause, "busy", "stopped"], 0)
    for tick in range(timeline.runs[0].issued, until):
        counts[_what_happened(tick, told, timeline.states)] += 1
    return counts


def _what_happened(
    tick: int, runs: Sequence[Run], states: Sequence[tuple[int, IssuerState]]
) -> str:
    if any(run.start <= tick < run.end for run in runs):
        return "busy"
    following = next((run for run in runs if run.start > tick), None)
    if following is not None and following.issued <= tick:
        return Cause.DEVICE
    state = [state for since, state in states if since <= tick][-1]
    if state is STOPPED:
        return "stopped"
    causes = {IDLE: Cause.EMPTY_QUEUE, ROOM: Cause.PUBLISH}
    return causes.get(state, Cause.HOST_PREPARE)


@given(timelines())
def test_random_timeline_is_accounted_like_tick_by_tick(timeline: Timeline) -> None:
    """Busy time and every cause are what counting each moment by itself gives."""
    ledger, counts = tell(timeline), count_each_tick(timeline)
    assert ledger.busy_s == counts["busy"]
    assert {cause: ledger.idle_s[cause] for cause in Cause} == {c: counts[c] for c in Cause}


@given(timelines())
def test_random_timeline_loses_no_time(timeline: Timeline) -> None:
    """Busy plus causes is all time from the first launch on, but for stops."""
    ledger, counts = tell(timeline), count_each_tick(timeline)
    assert ledger.started_s is not None
    wall_s = ledger.until_s - ledger.started_s - counts["stopped"]
    assert ledger.busy_s + sum(ledger.idle_s.values()) == wall_s
