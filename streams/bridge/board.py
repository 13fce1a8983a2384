"""All lanes of one event loop: who waits, who is looked at, and who is told.

The board runs on the loop's thread. A lane is looked at when its time has come
(``poller.py``) or when another thread says so (``wakeups.py``).
"""

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from streams.bridge.deadlines import Deadlines
from streams.bridge.lane import Lane, Waiter
from streams.bridge.lookout import BridgeLookout
from streams.bridge.poller import Poller
from streams.bridge.stats import BridgeStats
from streams.bridge.wait_errors import deadline_errors, own_error
from streams.bridge.wait_policy import Pace, WaitPolicy
from streams.bridge.wakeups import WakeUps
from streams.clock import active_clock, monotonic_ns
from streams.errors import DeviceLostError

if TYPE_CHECKING:
    from streams.stream import Stream

__all__ = ["Board"]

# While a capture is open, and while a thread is blocked for a later number.
_RECHECK_NS = 2_000_000


class Board:
    """Lets waiters go on, in order, when their streams have got there.

    Args:
        loop: whose thread this is; held weakly.
        policy: how to wait for streams that cannot call back.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, policy: WaitPolicy) -> None:
        #: Kept alive as long as a thread may report here; see ``PollingBridge``.
        self.closer: AsyncGenerator[None, None] | None = None
        self._policy = policy
        self._loop = weakref.ref(loop)
        self._poller = Poller(loop, self._visit, self._end_round)
        self._deadlines = Deadlines(loop, self._expire)
        self._lanes: dict[Stream, Lane] = {}
        self._wakeups = WakeUps(loop, self._lanes, self._serve)
        # What was learned of a stream outlives its lane, but not the stream.
        self._paces: weakref.WeakKeyDictionary[Stream, Pace] = weakref.WeakKeyDictionary()
        # Lanes whose waiters were let go; what comes next is seen to after those have run.
        self._unsettled: list[Lane] = []
        self._is_settling = False
        self._is_closed = False
        self._queries = 0
        self._lookout = BridgeLookout(self._lanes, self._poller, self._query, self._raised)
        if (clock := active_clock()) is not None:
            clock.add_lookout(self._lookout)

    @property
    def stats(self) -> BridgeStats:
        """Counters, and what is outstanding."""
        busy = [lane for lane in self._lanes.values() if lane.num_waiters]
        return BridgeStats(
            polls=self._poller.polls,
            queries=self._queries,
            wakeups=self._wakeups.num_served,
            timer_arms=self._poller.timer_arms,
            num_waiters=sum(lane.num_waiters for lane in busy),
            num_streams=len(busy),
        )

    # Waiters --------------------------------------------------------------

    def admit(self, waiter: Waiter) -> None:
        """Add a waiter; its future may be done at once.

        The stream is looked at if nobody waited for it, or only for later numbers.
        """
        stream = waiter.event.recorded_on()
        lane = self._lanes.get(stream) or self._open(stream)
        is_idle = lane.head is None and not lane.is_unsettled
        if lane.add(waiter):
            now_ns = monotonic_ns()
            if is_idle and lane.pace is not None:
                lane.pace.begin(now_ns)
            self._visit(lane, now_ns)
            self._end_round()
        elif lane.thread is not None:
            lane.thread.watch(waiter.event.number)
        if waiter.timeout_s is not None and not waiter.future.done():
            self._set_deadline(waiter, waiter.timeout_s)

    def dismiss(self, waiter: Waiter) -> None:
        """Let go of a waiter that has gone on or given up."""
        if waiter.has_deadline:
            waiter.has_deadline = False
            self._deadlines.drop()
        if waiter.future.done() and not waiter.future.cancelled():
            return
        lane = self._lanes.get(waiter.event.recorded_on())
        if lane is not None:
            lane.discard(waiter)
            if lane.head is None:
                self._retire(lane)

    def _set_deadline(self, waiter: Waiter, timeout_s: float) -> None:
        if timeout_s <= 0:
            self._expire([waiter])
        else:
            waiter.has_deadline = True
            self._deadlines.add(waiter, timeout_s)

    def _expire(self, waiters: list[Waiter]) -> None:
        """Fail those whose time is over, after a last look at their streams."""
        now_ns = monotonic_ns()
        late: dict[Stream, list[Waiter]] = {}
        for waiter in waiters:
            late.setdefault(waiter.event.recorded_on(), []).append(waiter)
        for stream, group in late.items():
            if (lane := self._lanes.get(stream)) is not None:
                while self._visit(lane, now_ns):
                    pass  # who waits behind what was found may have got there, too
                self._give_up(lane, [waiter for waiter in group if not waiter.future.done()])
        self._end_round()

    def _give_up(self, lane: Lane, waiters: list[Waiter]) -> None:
        waiters.sort(key=lambda waiter: waiter.event.number)
        errors = deadline_errors(waiters, lane.stream)
        for waiter, error in zip(waiters, errors, strict=True):
            waiter.fail(error)
            lane.discard(waiter)
        if lane.head is None:
            self._retire(lane)

    # Lanes ----------------------------------------------------------------

    def _open(self, stream: "Stream") -> Lane:
        pace = None
        if not stream.notifies:
            pace = self._paces.get(stream)
            if pace is None:
                pace = self._paces[stream] = self._policy.pace(stream)
        lane = self._lanes[stream] = Lane(stream, pace)
        return lane

    def _retire(self, lane: Lane) -> None:
        """Take an idle lane off, unless there is something to come."""
        if lane.is_unsettled:
            return  # until it is settled
        self._poller.drop(lane)
        # An armed stream will call back; forgetting that would arm it again and again.
        if not lane.armed:
            self._lanes.pop(lane.stream, None)

    def _visit(self, lane: Lane, now_ns: int) -> bool:
        """Look at a lane; let its finished waiters go on, or see to the next look.

        Returns:
            Whether anybody went on.
        """
        try:
            if num_done := self._release_finished(lane):
                self._unsettle(lane, now_ns, num_done)
                return True
            if not lane.is_unsettled:
                self._watch(lane, now_ns)
        except Exception as error:  # whatever a driver or a policy raises is its waiters'
            self._raised(lane, error)
        return False

    def _release_finished(self, lane: Lane) -> int:
        """Let go whose events are done, as far as one question tells; return how many."""
        if lane.head is None:
            return 0
        counter = max(lane.stream.completed, lane.known_done)
        if counter < lane.head:
            counter = self._query(lane.stream, lane.head)
        return self._release(lane, counter) if counter >= lane.head else 0

    def _unsettle(self, lane: Lane, now_ns: int, num_done: int) -> None:
        if not lane.is_unsettled:
            self._poller.drop(lane)
            self._unsettled.append(lane)
        lane.note_found(now_ns, num_done)

    def _end_round(self) -> bool:
        """Settle what was found, once its waiters have run; return whether there is any."""
        if self._unsettled and not self._is_settling:
            self._is_settling = True
            asyncio.get_running_loop().call_soon(self._settle)
        return bool(self._unsettled)

    def _settle(self) -> None:
        """Look at the next events of streams that got somewhere, teach their paces, go on.

        Not in the turn of the look: whoever waited runs first, what is learned can wait.
        A stream that got further still is settled once more, in the next turn.
        """
        self._is_settling = False
        lanes, self._unsettled = self._unsettled, []
        try:
            while lanes:
                self._settle_lane(lanes[-1], monotonic_ns())
                lanes.pop()
        finally:
            self._unsettled += lanes  # an interrupt must not lose any
            if not self._end_round() and not self._is_closed:
                self._poller.resume()

    def _settle_lane(self, lane: Lane, now_ns: int) -> None:
        try:
            was_done = False
            while num_done := self._release_finished(lane):
                lane.note_found(now_ns, num_done)
                was_done = True
            if was_done:
                self._unsettled.append(lane)
                return
            found_ns, num_found = lane.settle()
            if lane.pace is not None:
                lane.pace.found(found_ns, num_found)
            self._watch(lane, now_ns)
        except Exception as error:  # as in _visit
            lane.settle()
            self._raised(lane, error)

    def _query(self, stream: "Stream", number: int) -> int:
        if stream.device.is_capturing:
            return 0  # a query, from whatever thread, may break a graph capture
        self._queries += 1
        return stream.advance(number)

    def _release(self, lane: Lane, upto: int) -> int:
        """Let waiters go on in order; return for how many distinct numbers."""
        num_done, last = 0, None
        for waiter in lane.take(upto):
            waiter.resolve()
            num_done += waiter.event.number != last
            last = waiter.event.number
        return num_done

    def _watch(self, lane: Lane, now_ns: int) -> None:
        """Arrange the next look at a lane."""
        if lane.head is None:
            self._retire(lane)
        elif lane.stream.device.is_capturing:
            self._poller.watch(lane, now_ns + _RECHECK_NS)
        elif lane.pace is None:
            self._poller.drop(lane)
            self._wakeups.call_back(lane, lane.head)
        elif (due_ns := lane.pace.next_look_ns(now_ns)) is not None:
            lane.leave_thread()
            self._poller.watch(lane, due_ns)
        elif self._wakeups.block_for(lane, lane.head):
            self._poller.drop(lane)
        else:  # the thread is blocked for a later number, or there is no thread
            self._poller.watch(lane, now_ns + _RECHECK_NS)

    # Failures -------------------------------------------------------------

    def _raised(self, lane: Lane, error: BaseException) -> None:
        if isinstance(error, DeviceLostError):
            device = lane.stream.device
            for other in tuple(self._lanes.values()):
                if other.stream.device is device:
                    self._fail(other, error)
        else:
            self._fail(lane, error)

    def _fail(self, lane: Lane, error: BaseException) -> None:
        self._release(lane, max(lane.stream.completed, lane.known_done))
        for waiter in lane.take_all():
            waiter.fail(own_error(error))
        self._retire(lane)

    def _serve(self, news: dict[Lane, BaseException | None]) -> None:
        """See to the lanes whose streams, or threads, have called."""
        now_ns = monotonic_ns()
        for lane, error in news.items():
            if error is not None:
                self._visit(lane, now_ns)
                self._raised(lane, error)
            elif lane.thread is not None or lane.pace is None:
                self._deliver(lane, now_ns)
            else:
                self._visit(lane, now_ns)
        self._end_round()

    def _deliver(self, lane: Lane, now_ns: int) -> None:
        """Let go who waited for what was called about; there is little to see to after it."""
        try:
            num_done = self._release_finished(lane)
            if num_done and lane.pace is not None:
                lane.pace.found(now_ns, num_done)
            self._watch(lane, now_ns)
        except Exception as error:  # as in _visit
            self._raised(lane, error)

    # Closing --------------------------------------------------------------

    def close(self, make_error: Callable[[Waiter], BaseException]) -> None:
        """Fail who still waits, stop every timer, ask the threads to end.

        In a loop that was closed before nobody can be told: its tasks never run again.
        """
        self._is_closed = True
        waiters = [waiter for lane in self._lanes.values() for waiter in lane.take_all()]
        if self._can_run():
            for waiter in waiters:
                waiter.fail(make_error(waiter))
        self._lanes.clear()
        self._unsettled.clear()
        self._poller.close()
        self._deadlines.clear()
        self._wakeups.close()

    async def threads_ended(self) -> None:
        """Suspend until the threads have ended, after ``close``."""
        if self._can_run():
            await self._wakeups.threads_ended()

    def _can_run(self) -> bool:
        loop = self._loop()
        return loop is not None and not loop.is_closed()
