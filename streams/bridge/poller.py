"""Looks at streams when their time has come: one timer, or the loop's next turn."""

import asyncio
import weakref
from collections.abc import Callable

from streams.bridge.lane import Lane
from streams.bridge.timer import WakeTimer, open_timer
from streams.clock import active_clock, monotonic_ns

__all__ = ["Poller"]

# A wake-up costs the loop several times what a look costs, so lanes that are due this
# soon are looked at in the same one.
_COALESCE_NS = 25_000
_LATENESS_WEIGHT = 0.1
_MOST_LATE_NS = 200_000
# A turn of the loop takes no virtual time, and looking at every turn would stop the clock.
_VIRTUAL_TURN_NS = 1_000


class Poller:
    """The lanes that are polled, and the one timer that wakes for the earliest.

    Args:
        loop: where to run.
        visit: called for a lane that is due, with the time; it must say when to look
            again with ``watch``, or take the lane off with ``drop``.
        end_round: called after the lanes that were due; True if ``resume`` will be
            called when it is known what comes next, so that nothing need be armed yet.

    Attributes:
        polls: rounds made.
        timer_arms: times that the timer was set.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        visit: Callable[[Lane, int], object],
        end_round: Callable[[], bool],
    ) -> None:
        self.polls = 0
        self.timer_arms = 0
        self._loop = weakref.ref(loop)
        self._visit = visit
        self._end_round = end_round
        self._lanes: dict[Lane, None] = {}
        self._timer: WakeTimer | None = None
        # The earliest due time that the timer is to meet; it is set earlier, by its lateness.
        self._armed_ns: int | None = None
        self._set_ns = 0
        self._lateness_ns = 0.0
        self._turn: asyncio.Handle | None = None
        # While a round goes on, and until ``resume`` after it, nothing is armed.
        self._is_held = False

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The lanes that are polled."""
        return tuple(self._lanes)

    def watch(self, lane: Lane, due_ns: int) -> None:
        """Visit ``lane`` at ``due_ns``; in the past means at the loop's next turn."""
        lane.due_ns = due_ns
        self._lanes[lane] = None
        if not self._is_held and self._turn is None:
            self._wake_at(due_ns)

    def drop(self, lane: Lane) -> None:
        """Visit ``lane`` no more; without lanes nothing stays armed."""
        if lane in self._lanes:
            del self._lanes[lane]
            if not self._lanes and not self._is_held:
                self._rest()

    def resume(self) -> None:
        """Wake for the earliest lane; without lanes disarm."""
        self._is_held = False
        if self._lanes:
            self._wake_at(min(lane.due_ns for lane in self._lanes))
        else:
            self._rest()

    def close(self) -> None:
        """Drop every lane and close the timer."""
        self._lanes.clear()
        self._rest()
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _on_timer(self) -> None:
        now_ns = monotonic_ns()
        if self._armed_ns is None:
            return  # disarmed in the very turn in which it expired
        aim_ns, self._armed_ns = self._armed_ns, None
        late_ns = min(now_ns - self._set_ns, _MOST_LATE_NS)
        self._lateness_ns += _LATENESS_WEIGHT * (late_ns - self._lateness_ns)
        self._poll(now_ns, max(now_ns, aim_ns))

    def _on_turn(self) -> None:
        self._turn = None
        now_ns = monotonic_ns()
        self._poll(now_ns, now_ns)

    def _poll(self, now_ns: int, upto_ns: int) -> None:
        self.polls += 1
        self._is_held = True
        try:
            for lane in tuple(self._lanes):
                if lane.due_ns <= upto_ns + _COALESCE_NS:
                    self._visit(lane, now_ns)
        finally:
            if not self._end_round():
                self.resume()

    def _wake_at(self, due_ns: int) -> None:
        now_ns = monotonic_ns()
        if active_clock() is not None:
            due_ns = max(due_ns, now_ns + _VIRTUAL_TURN_NS)
        if due_ns <= now_ns:
            if self._turn is None:
                self._turn = self._running_loop().call_soon(self._on_turn)
        elif self._armed_ns is None or due_ns < self._armed_ns:
            self._arm(due_ns, now_ns)

    def _arm(self, due_ns: int, now_ns: int) -> None:
        if self._timer is None:
            self._timer = open_timer(self._running_loop(), self._on_timer)
        # Short sleeps end sooner than long ones do, so not more than half of it is taken off.
        self._set_ns = due_ns - min(int(self._lateness_ns), (due_ns - now_ns) // 2)
        self._timer.arm(self._set_ns)
        self.timer_arms += 1
        self._armed_ns = due_ns

    def _rest(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._timer is not None and self._armed_ns is not None:
            self._timer.disarm()
            self._armed_ns = None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        loop = self._loop()
        assert loop is not None, "lanes are watched on the loop's thread only"
        return loop
