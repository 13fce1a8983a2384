"""What time it is: the machine's, or the virtual one of a simulation.

While a virtual-clock event loop runs on a thread, everything on that thread that reads
``monotonic_ns`` or ``perf_s`` reads the virtual time, deadlines and traces included.
"""

import heapq
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = [
    "ClockTimer",
    "Lookout",
    "VirtualClock",
    "active_clock",
    "monotonic_ns",
    "perf_s",
    "use_clock",
]


class ClockTimer:
    """A call that a ``VirtualClock`` will make; ``cancel`` takes it back."""

    __slots__ = ("at_ns", "callback", "is_cancelled", "is_poll")

    def __init__(
        self, at_ns: int, callback: Callable[[], object], *, is_poll: bool = False
    ) -> None:
        self.at_ns = at_ns
        self.callback = callback
        self.is_cancelled = False
        self.is_poll = is_poll

    def cancel(self) -> None:
        """Do not call; doing it twice does no harm."""
        self.is_cancelled = True


class Lookout(Protocol):
    """Looks, from time to time, what others have brought about: a bridge, as a rule."""

    def would_find(self) -> bool:
        """Whether a look at what it polls would find something now."""

    def describe(self) -> list[str]:
        """Say who waits there for what, a line each."""


class VirtualClock:
    """Time that moves only when it is told to, and calls what comes due on the way.

    Calls due at one moment are made in the order in which they were asked for. One
    thread at a time.

    Attributes:
        now_ns: nanoseconds since the clock was made; never goes back.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self._order = itertools.count()
        self._timers: list[tuple[int, int, ClockTimer]] = []
        # A list: the order in which they are asked must not depend on addresses.
        self._lookouts: list[weakref.ref[Lookout]] = []

    def __repr__(self) -> str:
        return f"<VirtualClock at {self.now_ns / 1e6:.3f} ms, next {self.next_ns}>"

    @property
    def next_ns(self) -> int | None:
        """When the next call is due; None if nothing is."""
        timers = self._timers
        while timers and timers[0][2].is_cancelled:
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    @property
    def has_events(self) -> bool:
        """Whether a call is due, some time, that is no mere look."""
        return any(not t.is_poll and not t.is_cancelled for _, _, t in self._timers)

    def call_at(
        self, at_ns: int, callback: Callable[[], object], *, is_poll: bool = False
    ) -> ClockTimer:
        """Call ``callback`` once the clock gets to ``at_ns``; the past means now.

        Args:
            at_ns: when.
            callback: must not wait.
            is_poll: the call only looks what other calls have brought about.
        """
        timer = ClockTimer(max(at_ns, self.now_ns), callback, is_poll=is_poll)
        heapq.heappush(self._timers, (timer.at_ns, next(self._order), timer))
        return timer

    @property
    def lookouts(self) -> list[Lookout]:
        """Those that were added and still live, in order."""
        return [alive for ref in self._lookouts if (alive := ref()) is not None]

    def add_lookout(self, lookout: Lookout) -> None:
        """Know of one more that polls; held weakly."""
        self._lookouts = [ref for ref in self._lookouts if ref() is not None]
        self._lookouts.append(weakref.ref(lookout))

    def advance_to(self, at_ns: int) -> None:
        """Move on to ``at_ns``, making every call that comes due until then, in order."""
        while (due_ns := self.next_ns) is not None and due_ns <= at_ns:
            self.now_ns = max(self.now_ns, due_ns)
            heapq.heappop(self._timers)[2].callback()
        self.now_ns = max(self.now_ns, at_ns)

    def advance_to_next(self) -> bool:
        """Move on to the next moment at which something is due; False if there is none."""
        due_ns = self.next_ns
        if due_ns is None:
            return False
        self.advance_to(due_ns)
        return True


class _Active(threading.local):
    clock: VirtualClock | None = None


_active = _Active()


def active_clock() -> VirtualClock | None:
    """Return the virtual clock that this thread goes by; None: the machine's time."""
    return _active.clock


@contextmanager
def use_clock(clock: VirtualClock) -> Iterator[VirtualClock]:
    """Let this thread go by ``clock`` for a block; blocks may be nested."""
    former, _active.clock = _active.clock, clock
    try:
        yield clock
    finally:
        _active.clock = former


def monotonic_ns() -> int:
    """Return ``time.monotonic_ns``, or the virtual time of this thread."""
    clock = _active.clock
    return time.monotonic_ns() if clock is None else clock.now_ns


def perf_s() -> float:
    """Return ``time.perf_counter``, or the virtual time of this thread in seconds."""
    clock = _active.clock
    return time.perf_counter() if clock is None else clock.now_ns / 1e9
