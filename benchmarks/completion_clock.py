"""When device work was truly complete, in the host's time.

The CPU device's work reads the host's clock itself. A GPU's work records a timing
event; what that says is tied to the host's clock by anchors before and after the run.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch

from streams.device import Device, Platform

__all__ = ["CompletionClock", "CpuClock", "CudaClock", "Stamp", "completion_clock"]

_NUM_ANCHORS = 50


class Stamp(Protocol):
    """A mark at one point of a stream."""

    def mark(self) -> None:
        """Be put behind the device work before it; called by a launch's function."""


class CompletionClock(Protocol):
    """Tells when stamps were reached."""

    def start(self) -> None:
        """Begin a run; the device is idle. May block for some milliseconds."""

    def stop(self) -> None:
        """End a run; the device is idle again."""

    def stamp(self) -> Stamp:
        """Make a stamp for this run."""

    def reached_s(self, stamp: Stamp) -> float:
        """Return when, after ``stop``, in seconds of ``time.perf_counter``."""


def completion_clock(device: Device) -> CompletionClock:
    """Return the clock of a device: CPU, CUDA or ROCm."""
    return CpuClock() if device.platform is Platform.CPU else CudaClock()


class CpuStamp:
    """Reads the host's clock on the stream's own thread."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def mark(self) -> None:
        """Note the time."""
        self.at_s = time.perf_counter()


class CpuClock:
    """The CPU device has the host's clock."""

    def start(self) -> None:
        """Nothing to tie together."""

    def stop(self) -> None:
        """Nothing to tie together."""

    def stamp(self) -> CpuStamp:
        """Make a stamp."""
        return CpuStamp()

    def reached_s(self, stamp: Stamp) -> float:
        """Return what the stamp noted."""
        assert isinstance(stamp, CpuStamp), "stamps come from this clock"
        return stamp.at_s


class CudaStamp:
    """A timing event on the current stream."""

    def __init__(self) -> None:
        self.event: Any = _timing_event()

    def mark(self) -> None:
        """Record the event."""
        self.event.record()


class CudaClock:
    """Ties the device's timing events to the host's clock.

    An anchor is an event on an idle stream whose completion a spinning host sees; the
    quickest sight of fifty counts. So a completion is dated at the moment when a host
    that does nothing else could have known of it, to within a microsecond or two. The
    two clocks drift; between the anchors before and after a run this is made up for.
    """

    def __init__(self) -> None:
        self._stream: Any = _new_stream()

    def start(self) -> None:
        """Record the zero of this run's device times, and anchor it."""
        self._zero = self._seen()[0]
        self._from_ms, self._offset_s = self._anchor()

    def stop(self) -> None:
        """Anchor once more."""
        until_ms, offset_s = self._anchor()
        self._drift_s_per_ms = (offset_s - self._offset_s) / (until_ms - self._from_ms)

    def stamp(self) -> CudaStamp:
        """Make a stamp."""
        return CudaStamp()

    def reached_s(self, stamp: Stamp) -> float:
        """Return the host's time of a stamp."""
        assert isinstance(stamp, CudaStamp), "stamps come from this clock"
        at_ms = self._zero.elapsed_time(stamp.event)
        drift_s = (at_ms - self._from_ms) * self._drift_s_per_ms
        return float(at_ms / 1e3 + self._offset_s + drift_s)

    def _anchor(self) -> tuple[float, float]:
        """Return a device time, and what to add to it to get the host's."""
        seen = [self._seen() for _ in range(_NUM_ANCHORS)]
        at_ms = [float(self._zero.elapsed_time(event)) for event, _ in seen]
        offsets = [seen_s - ms / 1e3 for (_, seen_s), ms in zip(seen, at_ms, strict=True)]
        return at_ms[-1], min(offsets)

    def _seen(self) -> tuple[Any, float]:
        event: Any = _timing_event()
        event.record(self._stream)
        while not event.query():
            pass
        return event, time.perf_counter()


# Typed here, since torch declares them without types.
_timing_event: Callable[[], Any] = partial(torch.cuda.Event, enable_timing=True)
_new_stream: Callable[[], Any] = torch.cuda.Stream
