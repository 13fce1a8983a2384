"""A device that the test moves by hand and that has to be polled, or blocked for.

It runs nothing: ``finish`` decides what is done, and every look of the bridge is noted.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import torch

from streams.device import Capabilities, Device, Platform
from streams.event import Event
from streams.launch import Operation
from streams.stream import Stream

__all__ = ["PolledDevice", "PolledStream", "until"]


class PolledStream(Stream):
    """A stream whose work is done when the test says so.

    Attributes:
        asked: the numbers that ``advance`` was asked for, in order.
        asked_while_capturing: those among them during a capture.
        query_error: what ``advance`` raises for numbers that are not done.
        block_error: what ``block_until`` raises instead of waiting on.
        num_blocked: threads inside ``block_until``.
    """

    def __init__(self, device: "PolledDevice", name: str, priority: int) -> None:
        super().__init__(device, name, priority)
        self.asked: list[int] = []
        self.asked_while_capturing: list[int] = []
        self.blocked_for: list[int] = []
        self.query_error: BaseException | None = None
        self.block_error: BaseException | None = None
        self.num_blocked = 0
        self._reached = 0
        # Guards _reached, block_error and num_blocked; notified at each change.
        self.changed = threading.Condition()

    def enqueue(self, label: str = "work") -> Event:
        """Put one piece of work on the stream."""
        self.launch(_nothing)
        return self.record(label)

    def finish(self, event: Event) -> None:
        """Let the device reach ``event``; whoever looks next will see it."""
        with self.changed:
            self._reached = max(self._reached, event.number)
            self.changed.notify_all()

    def fail_blocked(self, error: BaseException) -> None:
        """Let ``block_until`` raise."""
        with self.changed:
            self.block_error = error
            self.changed.notify_all()

    def wait_until_blocked(self, number: int) -> None:
        """Block the test's thread until another one blocks for ``number``."""
        with self.changed:
            assert self.changed.wait_for(lambda: number in self.blocked_for, timeout=10)

    def advance(self, number: int) -> int:
        """Note the look; answer for ``number`` only, as a query of one event does."""
        self.asked.append(number)
        if self.device.is_capturing:
            self.asked_while_capturing.append(number)
        if number <= self._reached:
            self.completed = max(self.completed, number)
            self._retire(number)
        elif self.device.lost is not None:
            raise self.device.lost_error()
        elif self.device.is_closed:
            raise self._unfinished(number)
        elif self.query_error is not None:
            raise self.query_error
        return self.completed

    def block_until(self, number: int) -> None:
        """Block until ``finish`` gets there, or there is no more hope."""
        with self.changed:
            self.blocked_for.append(number)
            self.num_blocked += 1
            self.changed.notify_all()
            try:
                while self._reached < number:
                    if self.block_error is not None:
                        raise self.block_error
                    if self.device.is_closed:
                        raise self._unfinished(number)
                    self.changed.wait()
            finally:
                self.num_blocked -= 1

    def _issue(self, operation: Operation) -> None:
        operation.launch.set_value(None)


class CallingStream(PolledStream):
    """Calls back from within ``finish``, on the thread that calls it."""

    notifies = True

    def __init__(self, device: "PolledDevice", name: str, priority: int) -> None:
        super().__init__(device, name, priority)
        self.callbacks: list[tuple[int, Callable[[], object]]] = []

    def notify_at(self, number: int, callback: Callable[[], object]) -> None:
        """Note the callback."""
        self.callbacks.append((number, callback))

    def finish(self, event: Event) -> None:
        """Let the device reach ``event`` and say so."""
        super().finish(event)
        self.completed = self._reached
        self.call_back(event.number)

    def call_back(self, upto: int) -> None:
        """Call whoever wants to know about ``upto`` or less."""
        due = [entry for entry in self.callbacks if entry[0] <= upto]
        self.callbacks = [entry for entry in self.callbacks if entry[0] > upto]
        for _, callback in due:
            callback()


class PolledDevice(Device):
    """Opens ``PolledStream``s; ``calling_stream`` opens one that calls back."""

    def __init__(self, name: str = "polled") -> None:
        super().__init__(name, Platform.OTHER, Capabilities(), torch.device("cpu"))

    def polled(self, name: str = "s") -> PolledStream:
        """Open a stream that must be polled."""
        stream = self.stream(name)
        assert isinstance(stream, PolledStream)
        return stream

    def calling(self, name: str = "s") -> CallingStream:
        """Open a stream that calls back."""
        stream = self._streams[name] = CallingStream(self, name, 0)
        return stream

    def _open_stream(self, name: str, priority: int) -> Stream:
        return PolledStream(self, name, priority)

    def _close_stream(self, stream: Stream) -> None:
        self._wake(stream)

    def _close(self) -> None:
        for stream in self.streams:
            self._wake(stream)

    def _on_lost(self) -> None:
        for stream in self.streams:
            self._wake(stream)

    def _wake(self, stream: Stream) -> None:
        assert isinstance(stream, PolledStream)
        with stream.changed:
            stream.changed.notify_all()
        if isinstance(stream, CallingStream):
            stream.call_back(stream._issued)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until ``condition`` holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - not everything sets an event
            await asyncio.sleep(0)


async def settled(*waits: Awaitable[object]) -> list[object]:
    """Await all and return results and errors."""
    return list(await asyncio.gather(*waits, return_exceptions=True))


def _nothing() -> None:
    """The work of a launch whose device runs nothing."""
