"""What a litmus case is given, and what it may find.

The devices and the work that holds a stream back are those of the tests: a worker that waits on
the CPU, a latch on the simulated device, a stream memory operation on CUDA. So one case runs on
all of them, and each order is forced instead of hoped for.
"""

import enum
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from aio_sched.bench.device_work import Worker, device_worker
from streams.device import Device, Platform
from streams.event import Event
from streams.launch import Launch
from streams.simulated.device import SimDevice
from streams.stream import Stream
from tests.device_fixtures import Bench, Hold

__all__ = ["Case", "Finding", "Lab", "NotDoneError", "Verdict", "holds_if", "not_here"]


class Verdict(enum.Enum):
    """What became of a claim on a device."""

    HOLDS = "holds"
    FAILS = "does not hold"
    NOT_HERE = "cannot be asked here"
    BROKE = "broke off"  # an error of which the case knows nothing


class Finding(NamedTuple):
    """A verdict, and what was seen."""

    verdict: Verdict
    seen: str


class Case(NamedTuple):
    """One claim about devices, and how it is put to one."""

    name: str
    claim: str
    ask: "Callable[[Lab], Finding]"


class NotDoneError(Exception):
    """Something was not done in time that should have been."""


class Lab:
    """An open device for one case, and the means to hold it back and to look at it.

    Args:
        bench: where the device comes from.
        device: the open device.
        patience_s: after so many seconds what is not done will never be.
    """

    def __init__(self, bench: Bench, device: Device, patience_s: float = 5.0) -> None:
        self.bench = bench
        self.device = device
        self.patience_s = patience_s

    @property
    def is_simulated(self) -> bool:
        """Whether the device's time is virtual, whatever platform it plays."""
        return isinstance(self.device, SimDevice)

    @property
    def is_cuda(self) -> bool:
        """Whether there is a real CUDA device behind it."""
        return self.device.platform is Platform.CUDA and not self.is_simulated

    def stream(self, name: str) -> Stream:
        """Open a stream."""
        return self.device.stream(name)

    def hold(self, stream: Stream) -> Hold:
        """Occupy a stream until the hold is released."""
        return self.bench.hold(stream)

    def cells(self, *values: int) -> Tensor:
        """Make numbers in device memory."""
        return self.bench.cells(*values, device=self.device)

    def is_done(self, *things: Event | Launch[Any]) -> bool:
        """Ask until all of them are done, or patience is over."""
        end_s = time.monotonic() + self.patience_s
        while not all(thing.query() for thing in things):
            if time.monotonic() > end_s:
                return False
            time.sleep(0)
        return True

    def finish(self, *things: Event | Launch[Any]) -> None:
        """Wait for all of them.

        Raises:
            NotDoneError: one was not done in time.
        """
        for thing in things:
            if not self.is_done(thing):
                raise NotDoneError(f"{thing!r} was not done within {self.patience_s} s")

    def value(self, launch: Launch[Tensor]) -> list[int]:
        """Wait for a launch, and return the numbers that it gave.

        Raises:
            NotDoneError: it was not done in time.
        """
        self.finish(launch)
        return [int(number) for number in launch.result().tolist()]

    def busy(self, seconds: float) -> Callable[[object], object]:
        """Return what occupies the device for a while from within a launch.

        Nothing on a simulated device, which gives each launch its length.
        """
        if self.is_simulated:
            return lambda value: value
        return self._worker(seconds).queued()

    @cached_property
    def _worker(self) -> Worker:
        return device_worker(self.device)


def holds_if(is_so: bool, seen: str) -> Finding:
    """Decide a claim."""
    return Finding(Verdict.HOLDS if is_so else Verdict.FAILS, seen)


def not_here(why: str) -> Finding:
    """Leave a claim open."""
    return Finding(Verdict.NOT_HERE, why)
