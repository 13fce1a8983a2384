"""How else coroutines wait for a device: what ``bench bridge`` compares with.

Each rival is made inside the running loop and offers ``wait(event)``, as the bridge
does, and ``close()``.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Protocol

from streams.bridge import PollingBridge
from streams.bridge.wait_policy import WaitPolicy
from streams.errors import DeviceClosedError
from streams.event import Event
from streams.stream import Stream

__all__ = ["RIVALS", "BridgeRival", "Rival"]


class Rival(Protocol):
    """One way to wait; the bench does not care which."""

    def wait(self, event: Event) -> Awaitable[None]:
        """Suspend until the event is complete."""

    async def close(self) -> None:
        """Give back what it holds; the device is closed and nobody waits any more."""


class BridgeRival:
    """The polling bridge under one of its policies, or one of the caller's."""

    def __init__(self, policy: str | WaitPolicy) -> None:
        self._bridge = PollingBridge(policy)

    def wait(self, event: Event) -> Awaitable[None]:
        """Wait through the bridge."""
        return self._bridge.wait(event)

    async def close(self) -> None:
        """Close the bridge."""
        await self._bridge.aclose()


class SleepingPoll:
    """Every waiter asks for its own event and sleeps between: what engines do."""

    def __init__(self, sleep_s: float) -> None:
        self._sleep_s = sleep_s

    async def wait(self, event: Event) -> None:
        """Ask, sleep, ask again."""
        while not event.query():  # noqa: ASYNC110 - what is compared with
            await asyncio.sleep(self._sleep_s)

    async def close(self) -> None:
        """Nothing is held."""


class BlockedThreads:
    """A thread per stream blocks for one event after the other and wakes the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queues: dict[Stream, SimpleQueue[_Entry | None]] = {}
        self._threads: list[threading.Thread] = []

    async def wait(self, event: Event) -> None:
        """Queue the event to its stream's thread."""
        future = self._loop.create_future()
        self._queue(event.recorded_on()).put((event.number, future))
        await future

    async def close(self) -> None:
        """End the threads."""
        for queue in self._queues.values():
            queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _queue(self, stream: Stream) -> "SimpleQueue[_Entry | None]":
        if stream not in self._queues:
            queue = self._queues[stream] = SimpleQueue()
            thread = threading.Thread(target=self._work, args=(stream, queue), name="rival")
            self._threads.append(thread)
            thread.start()
        return self._queues[stream]

    def _work(self, stream: Stream, queue: "SimpleQueue[_Entry | None]") -> None:
        while (entry := queue.get()) is not None:
            number, future = entry
            try:
                stream.block_until(number)
            except DeviceClosedError:
                continue  # the end of the run; the waiter was cancelled
            self._loop.call_soon_threadsafe(_resolve, future)


_Entry = tuple[int, "asyncio.Future[None]"]


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class SynchronizeInExecutor:
    """``asyncio.to_thread(synchronize)`` for each event, on the default executor."""

    async def wait(self, event: Event) -> None:
        """Block one of the executor's threads."""
        await asyncio.to_thread(self._synchronize, event)

    async def close(self) -> None:
        """The loop ends its executor."""

    def _synchronize(self, event: Event) -> None:
        try:
            event.recorded_on().block_until(event.number)
        except DeviceClosedError:
            return  # the end of the run; the waiter was cancelled


RIVALS: dict[str, Callable[[], Rival]] = {
    "sleep(0) each": lambda: SleepingPoll(0.0),
    "sleep(1ms) each": lambda: SleepingPoll(0.001),
    "blocked thread per stream": BlockedThreads,
    "to_thread(synchronize)": SynchronizeInExecutor,
}
