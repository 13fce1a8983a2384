"""An accelerator that computes nothing and whose completions are known beforehand.

Stands in for a GPU where there is none: work completes in FIFO order, each piece an
interval after the former; a query costs about a microsecond and holds the GIL, as
torch's does; a blocking wait sleeps in the kernel, without the GIL, as a driver's.
"""

import itertools
import random
import time
from collections.abc import Sequence

import torch

from aio_sched.bench.timer_slack import wake_on_time
from streams.device import Capabilities, Device, Platform
from streams.event import Event
from streams.launch import Operation
from streams.stream import Stream

__all__ = ["TimedDevice", "TimedStream"]

_SLICE_S = 0.05
_NUM_DRAWN = 1000


class TimedStream(Stream):
    """A stream that completes its events at moments decided when they are enqueued.

    Args:
        intervals_ns: from one completion to the next while it has work; repeated.
        query_ns: what ``advance`` costs, holding the GIL.
    """

    def __init__(
        self,
        device: "TimedDevice",
        name: str,
        *,
        intervals_ns: Sequence[int],
        query_ns: int,
    ) -> None:
        super().__init__(device, name, 0)
        self._intervals_ns = itertools.cycle(intervals_ns)
        self._query_ns = query_ns
        self._done_ns: dict[int, int] = {}
        self._last_ns = 0

    def enqueue(self) -> Event:
        """Put one piece of work on the stream and return its event."""
        self._last_ns = max(self._last_ns, time.perf_counter_ns()) + next(self._intervals_ns)
        self._issued += 1
        self._done_ns[self._issued] = self._last_ns
        return Event("work", stream=self, number=self._issued, since=self._issued)

    def take_done_ns(self, number: int) -> int:
        """Return when ``number`` was done, in ``perf_counter_ns``, and forget it."""
        return self._done_ns.pop(number)

    def advance(self, number: int) -> int:
        """Ask for one number, as a query of its native event would."""
        now = time.perf_counter_ns()
        if self.device.is_closed:
            raise self._unfinished(number)
        if self.completed < number and self._done_ns.get(number, 0) <= now:
            self.completed = number
        while time.perf_counter_ns() < now + self._query_ns:
            pass
        return self.completed

    def block_until(self, number: int) -> None:
        """Sleep until the number is done, in slices, so that closing is seen."""
        wake_on_time()
        while (left_ns := self._done_ns.get(number, 0) - time.perf_counter_ns()) > 0:
            if self.device.is_closed:
                raise self._unfinished(number)
            time.sleep(min(left_ns / 1e9, _SLICE_S))

    def _issue(self, operation: Operation) -> None:
        raise TypeError(f"{self!r} runs no functions; use enqueue()")


class TimedDevice(Device):
    """A device of ``TimedStream`` only.

    Args:
        interval_ms: mean time from one completion to the next on each stream.
        jitter: standard deviation of an interval, as a share of it; None for uneven
            work, uniform between 0.2 and 1.8 of the mean.
        query_ns: what a query costs; 0 stands for reading a counter in host memory.
        seed: of the intervals.
    """

    def __init__(
        self,
        interval_ms: float,
        *,
        jitter: float | None = 0.02,
        query_ns: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__("emulated", Platform.OTHER, Capabilities(), torch.device("cpu"))
        self._interval_ns = interval_ms * 1e6
        self._jitter = jitter
        self._query_ns = query_ns
        self._random = random.Random(seed)

    def timed_streams(self, count: int) -> list[TimedStream]:
        """Open ``count`` streams."""
        return [self._open_stream(f"s{index}", 0) for index in range(count)]

    def _open_stream(self, name: str, priority: int) -> TimedStream:
        # Drawn beforehand: what the device does costs the host nothing.
        intervals = [self._draw_ns() for _ in range(_NUM_DRAWN)]
        return TimedStream(self, name, intervals_ns=intervals, query_ns=self._query_ns)

    def _draw_ns(self) -> int:
        if self._jitter is None:
            share = self._random.uniform(0.2, 1.8)
        else:
            share = self._random.gauss(1.0, self._jitter)
        return max(1, int(self._interval_ns * share))

    def _close_stream(self, stream: Stream) -> None:
        """Nothing to free."""

    def _close(self) -> None:
        """Blocked threads look at ``is_closed`` by themselves."""

    def _on_lost(self) -> None:
        """Nothing waits that would have to be told."""
