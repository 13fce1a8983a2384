"""A thread that blocks for one device stream, so that nobody need look at it."""

import heapq
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.stream import Stream

__all__ = ["StreamThread"]

_IDLE_S = 1.0
_CAPTURE_RECHECK_S = 0.002


class StreamThread:
    """Blocks in ``Stream.block_until`` for one number after the other, lowest first.

    The numbers are handed over when they are awaited, not one by one as the stream
    gets there: the thread never has to wait for a busy loop before it can block again.

    Not a daemon: a daemon inside a driver call at exit can bring the process down.
    It ends by itself after a second without work, and at ``stop``; inside
    ``block_until`` it ends when that returns, which closing the device brings about.
    All methods belong to the loop's thread.

    Args:
        stream: what to block for.
        report: called from the thread each time ``block_until`` returned, with the
            number, and what it raised or None. The loop then calls ``reported``.
    """

    def __init__(
        self, stream: "Stream", report: Callable[[int, BaseException | None], object]
    ) -> None:
        self._stream = stream
        self._report = report
        # Handed over and not reported yet; the loop's own.
        self._asked: set[int] = set()
        self._inbox: SimpleQueue[int | None] = SimpleQueue()
        # The thread's own: what it took from the inbox, as a heap.
        self._numbers: list[int] = []
        self._blocked_for: int | None = None
        self._is_stopping = False
        self._is_working = False
        # Guards the change of _is_working: either the thread sees what was put into the
        # inbox before it ends, or the loop sees that it has to start another.
        self._ending = threading.Lock()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        state = "working" if self._is_working else "ended"
        return f"<StreamThread of {self._stream!r} {state}, blocked for #{self._blocked_for}>"

    @property
    def is_working(self) -> bool:
        """Whether a thread blocks, or waits for a number to block for."""
        return self._is_working

    @property
    def is_alive(self) -> bool:
        """Whether the thread still runs; False a moment after it has no more work."""
        return self._thread is not None and self._thread.is_alive()

    def watch(self, number: int) -> bool:
        """Block for ``number`` in its turn; asking twice is asking once.

        Returns:
            False if the thread is blocked for a later number already, so that it
            will not report this one in time.

        Raises:
            RuntimeError: no thread can be started.
        """
        if number not in self._asked:
            self._asked.add(number)
            self._inbox.put(number)
            if not self._is_working:
                self._start()
        # Read after the put: the thread looks into the inbox again after it has set this.
        blocked_for = self._blocked_for
        return blocked_for is None or number >= blocked_for

    def reported(self, number: int) -> None:
        """Let ``number`` be asked for again."""
        self._asked.discard(number)

    def forget(self) -> None:
        """Block for none of the numbers any more; it may report the one that it is at."""
        self._asked.clear()
        self._inbox.put(None)

    def stop(self) -> None:
        """Ask the thread to end; it does so once it blocks no longer."""
        self._is_stopping = True
        self.forget()

    def _start(self) -> None:
        with self._ending:
            if self._is_working:
                return
            self._is_working = True
        name = f"aio-sched-wait-{self._stream.name}"
        thread = threading.Thread(target=self._work, name=name, daemon=False)
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left; the next wait tries again
            self._is_working = False
            self.forget()
            raise
        self._thread = thread

    def _work(self) -> None:
        while (number := self._next()) is not None:
            error: BaseException | None = None
            try:
                self._stream.block_until(number)
            except BaseException as raised:  # the waiters get it
                error = raised
            self._blocked_for = None
            self._report(number, error)
            del error

    def _next(self) -> int | None:
        while not self._is_stopping:
            self._empty_inbox()
            if self._numbers and not self._stream.device.is_capturing:
                number = self._blocked_for = heapq.heappop(self._numbers)
                if self._inbox.empty():
                    return number
                self._blocked_for = None  # a lower number may have come meanwhile
                heapq.heappush(self._numbers, number)
            elif not self._has_mail() and self._ends():
                return None
        self._is_working = False
        return None

    def _empty_inbox(self) -> None:
        while not self._inbox.empty():
            self._put_aside(self._inbox.get())

    def _has_mail(self) -> bool:
        """Wait for a number, or, with a capture open, for the time to look again."""
        try:
            # A driver call from any thread could break an open capture.
            wait_s = _CAPTURE_RECHECK_S if self._numbers else _IDLE_S
            self._put_aside(self._inbox.get(timeout=wait_s))
        except Empty:
            return False
        return True

    def _put_aside(self, number: int | None) -> None:
        if number is None:
            self._numbers.clear()
        else:
            heapq.heappush(self._numbers, number)

    def _ends(self) -> bool:
        if self._numbers:
            return False
        with self._ending:
            self._is_working = not self._inbox.empty()
            return not self._is_working
