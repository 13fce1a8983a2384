"""What tests of this folder use to see how device work was ordered."""

import threading
from typing import NamedTuple

import pytest

from buffers.access import Access
from streams.event import Event
from streams.launch import Operation
from streams.monitor import DeviceMonitor
from streams.stream import Stream

__all__ = ["OrderRecorder", "settled_behind"]


def settled_behind(awaited: Stream, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return a flag that is set when another CPU stream is about to block for ``awaited``.

    Set it also by a launch behind the work that should block. Then it is set in either case,
    and no test needs to guess how long the wrong thing would take.
    """
    settled = threading.Event()
    block_until = awaited.block_until

    def blocks(number: int) -> None:
        settled.set()
        block_until(number)

    monkeypatch.setattr(awaited, "block_until", blocks)
    return settled


Clock = dict[Stream, int]


class Seen(NamedTuple):
    """A launch, and up to which operation of each stream it surely comes after."""

    label: str
    stream: Stream
    number: int
    reads: tuple[object, ...]
    writes: tuple[object, ...]
    after: Clock


class OrderRecorder(DeviceMonitor):
    """Keeps the happens-before clocks of device streams, from what is enqueued alone."""

    def __init__(self) -> None:
        self.launches: list[Seen] = []
        self._now: dict[Stream, Clock] = {}

    def on_launch(self, operation: Operation) -> None:
        """Note a launch and what it is ordered behind."""
        event = operation.launch.event
        stream = event.recorded_on()
        after = dict(self._now.setdefault(stream, {}))
        self._now[stream][stream] = event.number
        self.launches.append(
            Seen(operation.label, stream, event.number, operation.reads, operation.writes, after)
        )

    def on_wait(self, stream: Stream, event: Event) -> None:
        """Put what ``event`` comes after into the clock of ``stream``."""
        clock = self._now.setdefault(stream, {})
        for other, number in (self._clock_at(event) | {event.recorded_on(): event.number}).items():
            clock[other] = max(clock.get(other, 0), number)

    def races(self) -> list[tuple[str, str, str]]:
        """Return conflicting accesses that nothing orders: field and row, and both launches."""
        found: list[tuple[str, str, str]] = []
        for later, second in enumerate(self.launches):
            for first in self.launches[:later]:
                if second.after.get(first.stream, 0) >= first.number:
                    continue
                cells = _conflicts(first, second)
                found += [(cell, first.label, second.label) for cell in sorted(cells)]
        return found

    def _clock_at(self, event: Event) -> Clock:
        before = (
            seen.after
            for seen in reversed(self.launches)
            if seen.stream is event.stream and seen.number <= event.number
        )
        return next(before, {})


def _conflicts(first: Seen, second: Seen) -> set[str]:
    return _cells(first.writes) & (_cells(second.reads) | _cells(second.writes)) | _cells(
        first.reads
    ) & _cells(second.writes)


def _cells(accesses: tuple[object, ...]) -> set[str]:
    return {
        f"{access.buffer}.{access.field}[{row}]"
        for access in accesses
        if isinstance(access, Access)
        for row in access.rows
    }
