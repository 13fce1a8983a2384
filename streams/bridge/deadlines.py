"""Deadlines of waiters: one timer of the loop for all of them.

A timer per waiter would cost the loop as much as the waiting itself. Most deadlines
never expire, so what is left of a waiter that got its event is dropped in passing.
"""

import asyncio
import heapq
import itertools
import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from streams.clock import monotonic_ns

if TYPE_CHECKING:
    from streams.bridge.lane import Waiter

__all__ = ["Deadlines", "check_timeout"]

_SHORTEST_S = 0.001
_NUM_STALE = 64


def check_timeout(timeout: float | None) -> float | None:
    """Return ``timeout``, with infinity as None.

    Raises:
        ValueError: it is not a number.
    """
    if timeout is not None and math.isnan(timeout):
        raise ValueError("timeout is nan; give seconds, or None to wait without a deadline")
    return None if timeout == math.inf else timeout


class Deadlines:
    """The waiters that have one, earliest first.

    Args:
        loop: whose timer to use; its resolution, a millisecond, is enough here.
        expire: called with the waiters whose time is over and who still wait.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        expire: "Callable[[list[Waiter]], object]",
    ) -> None:
        self._loop = weakref.ref(loop)
        self._expire = expire
        self._heap: list[tuple[int, int, Waiter]] = []
        self._order = itertools.count()
        self._num_live = 0
        self._handle: asyncio.TimerHandle | None = None
        self._armed_ns = 0

    def add(self, waiter: "Waiter", timeout_s: float) -> None:
        """Expire ``waiter`` after ``timeout_s`` unless it is dropped before."""
        now_ns = monotonic_ns()
        at_ns = now_ns + int(timeout_s * 1e9)
        heapq.heappush(self._heap, (at_ns, next(self._order), waiter))
        self._num_live += 1
        if self._handle is None or at_ns < self._armed_ns:
            self._arm(at_ns, now_ns)

    def drop(self) -> None:
        """One waiter that was added does not wait any more."""
        self._num_live -= 1
        if not self._num_live:
            self.clear()
        elif len(self._heap) > 2 * self._num_live + _NUM_STALE:
            self._heap = [entry for entry in self._heap if entry[2].is_racing]
            heapq.heapify(self._heap)

    def clear(self) -> None:
        """Forget all deadlines and disarm the timer."""
        self._heap.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, at_ns: int, now_ns: int) -> None:
        if self._handle is not None:
            self._handle.cancel()
        loop = self._loop()
        assert loop is not None, "only a running loop's waiters have deadlines"
        # Not below a millisecond: uvloop would round to zero, and spin.
        delay_s = max(_SHORTEST_S, (at_ns - now_ns) / 1e9)
        self._handle = loop.call_later(delay_s, self._fire)
        self._armed_ns = at_ns

    def _fire(self) -> None:
        self._handle = None
        now_ns = monotonic_ns()
        expired: list[Waiter] = []
        heap = self._heap
        while heap and (heap[0][0] <= now_ns or not heap[0][2].is_racing):
            waiter = heapq.heappop(heap)[2]
            if waiter.is_racing:
                expired.append(waiter)
        if heap:
            self._arm(heap[0][0], now_ns)
        if expired:
            self._expire(expired)
