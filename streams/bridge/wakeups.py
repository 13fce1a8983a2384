"""What other threads have to say to the loop: streams that call back, threads that blocked.

Calls are queued, and one wake-up of the loop serves all that have been queued by then.
"""

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from streams.bridge.lane import Lane
from streams.bridge.stream_thread import StreamThread
from streams.clock import active_clock
from streams.log import get_logger

if TYPE_CHECKING:
    from streams.stream import Stream

__all__ = ["WakeUps"]

log = get_logger("bridge")

_THREAD_END_S = 10.0


class WakeUps:
    """Arms streams that call back, runs threads that block, and brings the loop their news.

    Args:
        loop: whom to wake; held weakly.
        lanes: the lanes that there are, by stream.
        serve: called in the loop with the lanes that there is news for, and what was
            raised there, or None.

    Attributes:
        num_served: times that the loop was woken.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lanes: "Mapping[Stream, Lane]",
        serve: Callable[[dict[Lane, BaseException | None]], object],
    ) -> None:
        self.num_served = 0
        self._loop = weakref.ref(loop)
        self._lanes = lanes
        self._serve = serve
        self._threads: dict[Stream, StreamThread] = {}
        # A stream, the number that it is about, and what was raised.
        self._calls: deque[tuple[Stream, int, BaseException | None]] = deque()
        self._is_woken = False
        self._is_closed = False

    def call_back(self, lane: Lane, number: int) -> None:
        """Let the stream, which can do so, call when it has reached ``number``."""
        if not lane.armed or number < min(lane.armed):
            lane.armed.add(number)
            lane.stream.notify_at(number, partial(self._call, lane.stream, number))

    def block_for(self, lane: Lane, number: int) -> bool:
        """Let a thread block for ``number``, and whatever else is awaited of the stream.

        Returns:
            False if the thread is blocked for a later number and cannot be called back, and
            in virtual time, where threads do not exist.
        """
        if active_clock() is not None:
            return False
        if lane.thread is None:
            lane.thread = self._thread(lane.stream)
            for other in lane.numbers:
                lane.thread.watch(other)
        return lane.thread.watch(number)

    def close(self) -> None:
        """Wake the loop no more; ask the threads to end."""
        self._is_closed = True
        self._calls.clear()
        for thread in self._threads.values():
            thread.stop()

    async def threads_ended(self) -> None:
        """Suspend until the threads have ended, after ``close``.

        One that is blocked in a driver cannot be interrupted: after ten seconds it is
        left to itself, with an error in the log, and ends when the device lets it.
        """
        give_up_s = time.monotonic() + _THREAD_END_S
        while self._has_threads() and time.monotonic() < give_up_s:  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # a thread that has ended can set no event
        for stream, thread in self._threads.items():
            if thread.is_alive:
                log.error("wait_thread_blocked", stream=stream.name, device=stream.device.name)

    def _has_threads(self) -> bool:
        return any(thread.is_alive for thread in self._threads.values())

    def _thread(self, stream: "Stream") -> StreamThread:
        thread = self._threads.get(stream)
        if thread is None:
            self._threads = {s: t for s, t in self._threads.items() if t.is_working}
            thread = self._threads[stream] = StreamThread(stream, partial(self._call, stream))
        return thread

    def _call(self, stream: "Stream", number: int, error: BaseException | None = None) -> None:
        """Tell the loop, from any thread."""
        self._calls.append((stream, number, error))
        # The loop clears the flag before it empties the queue, so whoever sees the flag set
        # has its call served.
        loop = self._loop()
        if self._is_woken or self._is_closed or loop is None:
            return
        self._is_woken = True
        try:
            loop.call_soon_threadsafe(self._answer)
        except RuntimeError:
            self._is_woken = False
            if not loop.is_closed():
                raise

    def _answer(self) -> None:
        self._is_woken = False
        self.num_served += 1
        news: dict[Lane, BaseException | None] = {}
        while self._calls:
            stream, number, error = self._calls.popleft()
            if (thread := self._threads.get(stream)) is not None:
                thread.reported(number)
            if (lane := self._lanes.get(stream)) is not None:
                lane.called(number, error)
                news[lane] = error or news.get(lane)
        self._serve(news)
