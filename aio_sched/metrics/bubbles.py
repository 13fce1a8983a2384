"""Why the forward stream did nothing: gaps between its launches, by cause.

Pure: takes times, holds no device and never waits. ``ForwardLedger`` splits the
wall time of one device stream as it goes by; ``split_gap`` is the rule itself and
serves the pictures too.
"""

import enum
from collections import deque
from collections.abc import Iterable, Iterator
from math import inf

__all__ = ["Cause", "ForwardLedger", "IssuerState", "issuer_state", "split_gap"]

Interval = tuple[float, float]


class Cause(enum.StrEnum):
    """What the forward stream was waiting for while it did nothing."""

    HOST_PREPARE = "host_prepare"
    """The issuer was in prepare or forward: the host was too slow."""
    PUBLISH = "publish"
    """The issuer waited for a place in flight: results were too slow."""
    DEVICE = "device"
    """Forward was issued: its stream waited for another one, or for launch latency."""
    EMPTY_QUEUE = "empty_queue"
    """There was nothing to do. Not a bubble: no scheduler could have filled it."""


class IssuerState(enum.StrEnum):
    """What the issuer does; ``stopped`` counts as no time at all."""

    IDLE = "idle"
    PREPARE = "prepare"
    FORWARD = "forward"
    ROOM = "room"
    STOPPED = "stopped"


_CAUSE_OF: dict[IssuerState, Cause | None] = {
    IssuerState.IDLE: Cause.EMPTY_QUEUE,
    IssuerState.PREPARE: Cause.HOST_PREPARE,
    IssuerState.FORWARD: Cause.HOST_PREPARE,
    IssuerState.ROOM: Cause.PUBLISH,
    IssuerState.STOPPED: None,
}
_STATES = {state.value: state for state in IssuerState}


def issuer_state(name: str) -> IssuerState:
    """Look a state up by name.

    Raises:
        ValueError: no such state.
    """
    state = _STATES.get(name)
    if state is None:
        raise ValueError(f"issuer state {name!r} is unknown; use one of {list(_STATES)}")
    return state


def split_gap(
    start_s: float,
    end_s: float,
    issued_s: float,
    states: Iterable[tuple[float, IssuerState]],
) -> Iterator[tuple[float, float, Cause]]:
    """Split an idle stretch of the forward stream by what it waited for.

    Args:
        start_s: when the stream ran dry.
        end_s: when it went on.
        issued_s: when the launch that it went on with was issued; from there on the
            host is not to blame. Infinity if it has not been issued.
        states: since when the issuer was in which state, oldest first. The first one
            holds for all time before it, the last one until further notice; without
            any the issuer counts as idle.

    Yields:
        Pieces (from, to, cause) in order, none empty; time while the issuer was
        stopped is left out. Nothing if the gap is empty or turned round.
    """
    if end_s <= start_s:
        return
    host_until = min(max(issued_s, start_s), end_s)
    at, cause = start_s, _CAUSE_OF[IssuerState.IDLE]
    for index, (since_s, state) in enumerate(states):
        if index and since_s > at:
            until_s = min(since_s, host_until)
            if cause is not None and until_s > at:
                yield at, until_s, cause
            at = until_s
        cause = _CAUSE_OF[state]
    if cause is not None and host_until > at:
        yield at, host_until, cause
    if end_s > host_until:
        yield host_until, end_s, Cause.DEVICE


class ForwardLedger:
    """Accounts for the wall time of one device stream, in constant memory.

    Fed in the order in which things become known on the loop's thread: states and
    issues at once, runs some time after their end. Whatever was not running goes to
    a cause, so that busy time and causes add up to the time accounted for.

    Attributes:
        started_s: when the first launch was issued; accounting begins there. None
            before.
        until_s: up to where time has been accounted for.
        busy_s: seconds that the stream ran launches.
        idle_s: seconds that it did not, by cause.
    """

    def __init__(self) -> None:
        self.started_s: float | None = None
        self.until_s = -inf
        self.busy_s = 0.0
        self.idle_s: dict[Cause, float] = dict.fromkeys(Cause, 0.0)
        # Bounded for a device that never reports what it ran; in flight are few.
        self._issued: deque[tuple[int, float]] = deque(maxlen=65_536)
        # One entry while nothing is on the device; else as many as the issuer changes
        # state during one launch. What falls out counts as the oldest one kept.
        self._states: deque[tuple[float, IssuerState]] = deque(maxlen=1024)

    @property
    def is_outstanding(self) -> bool:
        """Whether a launch was issued whose run is not yet known."""
        return bool(self._issued)

    def issue(self, number: int, now_s: float) -> None:
        """Operation ``number`` goes onto the stream; before any later number does."""
        if self.started_s is None:
            self.started_s = self.until_s = now_s
        self._issued.append((number, now_s))

    def state(self, state: IssuerState, now_s: float) -> None:
        """The issuer is in ``state`` from now on."""
        if not self._issued:
            self.settle(now_s)
        self._states.append((now_s, state))
        if not self._issued:
            self._forget_states()

    def ran(self, number: int, start_s: float, end_s: float) -> Interval:
        """Operation ``number`` has run; in the order of their numbers.

        Returns:
            The run without what was accounted for before (device clocks jitter).
        """
        issued_s = self._take_issue(number, start_s)
        if self.started_s is None:
            self.started_s = self.until_s = issued_s
        start_s = max(start_s, self.until_s)
        end_s = max(end_s, start_s)
        self._idle_until(start_s, issued_s)
        self.busy_s += end_s - start_s
        self.until_s = end_s
        self._forget_states()
        return start_s, end_s

    def settle(self, now_s: float) -> None:
        """Account for the time up to now, as far as it can be known.

        With launches outstanding that is the moment at which the oldest of them was
        issued: it may be running since.
        """
        if self.started_s is None:
            return
        known_s = min(now_s, self._issued[0][1]) if self._issued else now_s
        if known_s > self.until_s:
            self._idle_until(known_s, inf)
            self.until_s = known_s
            self._forget_states()

    def _take_issue(self, number: int, default_s: float) -> float:
        issued_s = default_s
        while self._issued and self._issued[0][0] <= number:
            found, found_s = self._issued.popleft()
            if found == number:
                issued_s = found_s
        return issued_s

    def _idle_until(self, end_s: float, issued_s: float) -> None:
        for start_s, until_s, cause in split_gap(self.until_s, end_s, issued_s, self._states):
            self.idle_s[cause] += until_s - start_s

    def _forget_states(self) -> None:
        states = self._states
        while len(states) > 1 and states[1][0] <= self.until_s:
            states.popleft()
