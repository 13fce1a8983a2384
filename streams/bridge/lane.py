"""Who waits for which point of one stream's timeline.

Plain data, no clock and no loop: a lane answers which number is awaited next and
hands out the waiters that a counter has passed, in order.
"""

import asyncio
import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.bridge.stream_thread import StreamThread
    from streams.bridge.wait_policy import Pace
    from streams.event import Event
    from streams.stream import Stream

__all__ = ["Lane", "Waiter"]


class Waiter:
    """One coroutine that waits for one event.

    Attributes:
        event: what it waits for.
        future: done once it may go on.
        timeout_s: how long it allowed; None without a deadline.
        has_deadline: whether a timer watches over it.
    """

    __slots__ = ("event", "future", "has_deadline", "timeout_s")

    def __init__(
        self, event: "Event", future: "asyncio.Future[None]", timeout_s: float | None
    ) -> None:
        self.event = event
        self.future = future
        self.timeout_s = timeout_s
        self.has_deadline = False

    @property
    def is_racing(self) -> bool:
        """Whether it still waits, against a deadline."""
        return self.has_deadline and not self.future.done()

    def resolve(self) -> None:
        """Let the coroutine go on, unless it was cancelled meanwhile."""
        if not self.future.done():
            self.future.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Let the coroutine raise ``error``, unless it was cancelled meanwhile."""
        if not self.future.done():
            self.future.set_exception(error)


class Lane:
    """The waiters of one stream, ordered by number, then by arrival.

    Adding, discarding and taking cost the logarithm of the number of distinct
    awaited numbers, never the number of waiters.

    Attributes:
        stream: whose timeline it is.
        pace: decides when to look at a stream that cannot call back.
        head: the lowest awaited number; None when nobody waits.
        num_waiters: how many wait.
        due_ns: when to look next, while the lane is polled.
        armed: numbers at which the stream will call back.
        thread: blocks for the awaited numbers, while nobody looks at the stream.
        known_done: the highest number that the thread saw done.
        is_unsettled: whether a look found completions that are not followed up yet.
    """

    __slots__ = (
        "_buckets",
        "_found_ns",
        "_num_found",
        "_numbers",
        "armed",
        "due_ns",
        "head",
        "is_unsettled",
        "known_done",
        "num_waiters",
        "pace",
        "stream",
        "thread",
    )

    def __init__(self, stream: "Stream", pace: "Pace | None") -> None:
        self.stream = stream
        self.pace = pace
        self.head: int | None = None
        self.num_waiters = 0
        self.due_ns = 0
        self.armed: set[int] = set()
        self.thread: StreamThread | None = None
        self.known_done = 0
        self.is_unsettled = False
        self._found_ns = 0
        self._num_found = 0
        # A heap of the keys of _buckets. A bucket whose waiters all left stays until the
        # head passes it: searching the heap would cost more than keeping the number.
        self._numbers: list[int] = []
        self._buckets: dict[int, dict[Waiter, None]] = {}

    def __repr__(self) -> str:
        return f"<Lane of {self.stream!r}: {self.num_waiters} waiting, next #{self.head}>"

    @property
    def numbers(self) -> tuple[int, ...]:
        """The awaited numbers, in no order; some may have lost their waiters."""
        return tuple(self._numbers)

    @property
    def waiters(self) -> list[Waiter]:
        """Who waits, in order."""
        return [waiter for number in sorted(self._numbers) for waiter in self._buckets[number]]

    def add(self, waiter: Waiter) -> bool:
        """Add a waiter; return whether its number is the new head."""
        number = waiter.event.number
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = {}
            heapq.heappush(self._numbers, number)
        bucket[waiter] = None
        self.num_waiters += 1
        if self.head is None or number < self.head:
            self.head = number
            return True
        return False

    def discard(self, waiter: Waiter) -> None:
        """Forget a waiter that gave up; one that was taken before is unknown."""
        number = waiter.event.number
        bucket = self._buckets.get(number)
        if bucket is None or waiter not in bucket:
            return
        del bucket[waiter]
        self.num_waiters -= 1
        if not bucket and number == self.head:
            self._find_head()

    def called(self, number: int, error: BaseException | None) -> None:
        """Note that the stream called back at ``number``, or its thread for it."""
        self.armed.discard(number)
        if self.thread is not None and error is None and number > self.known_done:
            self.known_done = number

    def leave_thread(self) -> None:
        """Let no thread block for the stream any more."""
        if self.thread is not None:
            self.thread.forget()
            self.thread = None

    def note_found(self, now_ns: int, num_done: int) -> None:
        """Note that a look found ``num_done`` completions, until ``settle``."""
        self._found_ns = now_ns
        self._num_found = num_done + (self._num_found if self.is_unsettled else 0)
        self.is_unsettled = True

    def settle(self) -> tuple[int, int]:
        """Return when the last completions were found, and how many there are in all."""
        self.is_unsettled = False
        return self._found_ns, self._num_found

    def take(self, upto: int) -> list[Waiter]:
        """Remove and return the waiters for ``upto`` and below, in order."""
        taken: list[Waiter] = []
        numbers = self._numbers
        while numbers and numbers[0] <= upto:
            taken.extend(self._buckets.pop(heapq.heappop(numbers)))
        self.num_waiters -= len(taken)
        self._find_head()
        return taken

    def take_all(self) -> list[Waiter]:
        """Remove and return every waiter, in order."""
        return self.take(max(self._numbers, default=0))

    def _find_head(self) -> None:
        numbers = self._numbers
        while numbers and not self._buckets[numbers[0]]:
            del self._buckets[heapq.heappop(numbers)]
        self.head = numbers[0] if numbers else None
