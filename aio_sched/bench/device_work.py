"""Device work of a given length that leaves the host alone.

On the CPU device it sleeps: it holds neither the GIL nor a core, so two cores measure
the schedule and not the arithmetic. On a GPU it is a kernel that spins for a number of
clock cycles, calibrated against the device's own timer.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

from aio_sched.bench.timer_slack import wake_on_time
from streams.device import Device, Platform
from streams.errors import DeviceUnavailableError

__all__ = ["DeviceWork", "Worker", "device_worker"]

DeviceWork = Callable[[Any], Any]
"""To be launched: returns what it is given, once its time is over."""

Worker = Callable[[float], DeviceWork]
"""Makes device work that lasts a number of seconds."""

T = TypeVar("T")

_SPIN_PLATFORMS = (Platform.CUDA, Platform.ROCM)
_CALIBRATION_CYCLES = 20_000_000
_CALIBRATION_RUNS = 9


def device_worker(device: Device) -> Worker:
    """Return what makes device work for ``device``; calibrates, so it may block a while.

    Raises:
        DeviceUnavailableError: torch has no kernel of a given length for this device.
    """
    if device.platform is Platform.CPU:
        return sleeping
    if device.platform in _SPIN_PLATFORMS:
        return spinning(cycles_per_s(device.torch_device))
    raise DeviceUnavailableError(
        f"device {device.name}: torch has a kernel of known length for CUDA and ROCm only; "
        "use device 'cpu'"
    )


def sleeping(seconds: float) -> DeviceWork:
    """Make work for the CPU device."""

    def sleep(value: T) -> T:
        wake_on_time()
        time.sleep(seconds)
        return value

    return sleep


def spinning(cycles_s: float) -> Worker:
    """Make work for a GPU whose clock does ``cycles_s`` cycles a second."""

    def work(seconds: float) -> DeviceWork:
        cycles = int(seconds * cycles_s)

        def spin(value: T) -> T:
            _spin(cycles)
            return value

        return spin

    return work


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
