"""Device work of a given length that leaves the host alone.

On the CPU device it sleeps: it holds neither the GIL nor a core, so two cores measure
the schedule and not the arithmetic. It sleeps until a moment, not for a while: an
accelerator begins the next piece of work when the former one is done, if it is queued
by then, and does not wait until a thread has woken and got the GIL. On a GPU it is a
kernel that spins for a number of clock cycles, calibrated against the device's own timer.
"""

import statistics
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

from aio_sched.bench.timer_slack import wake_on_time
from streams.device import Device, Platform
from streams.errors import DeviceUnavailableError
from streams.stream import Stream

__all__ = [
    "DeviceWork",
    "SleepWork",
    "SpinWork",
    "Worker",
    "cycles_per_s",
    "device_worker",
    "spinning",
]

T = TypeVar("T")


class DeviceWork(ABC):
    """Work of one length; may be launched any number of times."""

    @abstractmethod
    def queued(self) -> Callable[[T], T]:
        """Return what to launch now, in the same breath: it gives back its argument."""

    @abstractmethod
    def busy_s(self, stream: Stream) -> float:
        """Return for how long the device has done this work, all of it on ``stream``."""


Worker = Callable[[float], DeviceWork]
"""Makes device work that lasts a number of seconds."""

_SPIN_PLATFORMS = (Platform.CUDA, Platform.ROCM)
_CALIBRATION_CYCLES = 20_000_000
_CALIBRATION_RUNS = 9


def device_worker(device: Device) -> Worker:
    """Return what makes device work for ``device``; calibrates, so it may block a while.

    Raises:
        DeviceUnavailableError: torch has no kernel of a given length for this device.
    """
    if device.platform is Platform.CPU:
        return SleepWork
    if device.platform in _SPIN_PLATFORMS:
        return spinning(cycles_per_s(device.torch_device))
    raise DeviceUnavailableError(
        f"device {device.name}: torch has a kernel of known length for CUDA and ROCm only; "
        "use device 'cpu'"
    )


class _Worker(threading.local):
    done_s = 0.0


class SleepWork(DeviceWork):
    """Work for the CPU device: its thread sleeps until an accelerator would be done."""

    # When the thread's last piece of work was, or should have been, done.
    _worker = _Worker()

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._num_done = 0

    def queued(self) -> Callable[[T], T]:
        """Note when it is queued: earlier it cannot begin."""
        return partial(self._sleep, time.perf_counter())

    def busy_s(self, stream: Stream) -> float:
        """Return the time of all finished work; threads also wait for the GIL meanwhile."""
        return self._num_done * self._seconds

    def _sleep(self, queued_s: float, value: T) -> T:
        wake_on_time()
        worker = self._worker
        worker.done_s = max(queued_s, worker.done_s) + self._seconds
        if (left_s := worker.done_s - time.perf_counter()) > 0:
            time.sleep(left_s)
        self._num_done += 1
        return value


class SpinWork(DeviceWork):
    """Work for a GPU: a kernel that counts clock cycles."""

    def __init__(self, cycles: int) -> None:
        self._cycles = cycles

    def queued(self) -> Callable[[T], T]:
        """Return what issues the kernel."""
        return self._issue

    def busy_s(self, stream: Stream) -> float:
        """Return what the device's own timer says."""
        return stream.busy_s

    def _issue(self, value: T) -> T:
        _spin(self._cycles)
        return value


def spinning(cycles_s: float) -> Worker:
    """Make work for a GPU whose clock does ``cycles_s`` cycles a second."""
    return lambda seconds: SpinWork(int(seconds * cycles_s))


def cycles_per_s(where: torch.device) -> float:
    """Measure how fast the spinning kernel counts; blocks for some tenths of a second.

    The median of several runs, after the clocks have risen. Ideal and measured time
    spin for the same number of cycles, so a clock that drifts later does no harm.
    """
    with torch.cuda.device(where):
        _spin_ms()  # from idle clocks
        return _CALIBRATION_CYCLES / statistics.median(
            _spin_ms() / 1e3 for _ in range(_CALIBRATION_RUNS)
        )


def _spin_ms() -> float:
    start: Any = _timing_event()
    end: Any = _timing_event()
    start.record()
    _spin(_CALIBRATION_CYCLES)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


# torch declares neither of these with types. The kernel is private, but it is what torch's own
# tests of streams use, on CUDA and ROCm alike.
_timing_event: Callable[[], Any] = partial(torch.cuda.Event, enable_timing=True)
_spin: Callable[[int], None] = torch.cuda._sleep
