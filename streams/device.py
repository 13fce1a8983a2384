"""Devices: what a machine has, under one set of verbs.

``open_device`` is the entry; ``cpu.py``, ``accelerator`` and ``simulated`` implement it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import torch

from streams.errors import (
    DeviceClosedError,
    DeviceLostError,
    DeviceUnavailableError,
    UnknownDeviceError,
)
from streams.guard import check_blocking
from streams.monitor import DeviceMonitor
from streams.platform import Capabilities, Platform
from streams.stream import Stream

if TYPE_CHECKING:
    from streams.simulated.faults import FaultPlan
    from streams.simulated.profile import SimProfile

__all__ = ["Capabilities", "Device", "IssueMode", "Platform", "open_device"]

IssueMode = Literal["inline", "thread"]


class Device(ABC):
    """A device and its streams; close it, or use it as a context manager.

    Attributes:
        name: as ``open_device`` takes it, with the index where there is one.
        platform: whose streams these are.
        capabilities: what it can do beyond streams and events.
        torch_device: where tensors for it live.
        monitors: told of every call; see ``add_monitor``.
    """

    def __init__(
        self,
        name: str,
        platform: Platform,
        capabilities: Capabilities,
        torch_device: torch.device,
    ) -> None:
        self.name = name
        self.platform = platform
        self.capabilities = capabilities
        self.torch_device = torch_device
        self.monitors: tuple[DeviceMonitor, ...] = ()
        self.is_capturing = False
        self._streams: dict[str, Stream] = {}
        self._lost: BaseException | None = None
        self._closed_because: str | None = None

    def __repr__(self) -> str:
        state = "lost" if self._lost else "closed" if self.is_closed else "open"
        return f"<{type(self).__name__} {self.name} {state}, streams {list(self._streams)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The open streams, oldest first."""
        return tuple(self._streams.values())

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called, here or in the parent of a fork."""
        return self._closed_because is not None

    @property
    def lost(self) -> BaseException | None:
        """The fault that made the device useless, or None."""
        return self._lost

    def stream(self, name: str, priority: int = 0) -> Stream:
        """Open a stream of this device.

        Args:
            name: names it in errors and traces; unique on this device.
            priority: 0 is normal, negative more urgent where the device can.

        Raises:
            ValueError: the name is taken or empty, or the priority is positive.
            StreamAliasError: the device gives out no further distinct stream.
            DeviceClosedError: the device is closed.
        """
        self.check_usable()
        if not name or name in self._streams:
            raise ValueError(
                f"stream name {name!r} is {'taken' if name else 'empty'} on device "
                f"{self.name}; choose another"
            )
        if priority > 0:
            raise ValueError(
                f"priority {priority} of stream {name!r} is positive; "
                "0 is normal and negative is more urgent"
            )
        stream = self._streams[name] = self._open_stream(name, priority)
        return stream

    def close_stream(self, stream: Stream) -> None:
        """Give one stream back; see ``Stream.close``."""
        if not stream.is_closed:
            stream.is_closed = True
            del self._streams[stream.name]
            self._close_stream(stream)

    def synchronize(self) -> None:
        """Block this thread until all streams have run dry.

        Raises:
            HostBlockedError: called on the event loop's thread inside a guarded
                task in strict mode.
        """
        check_blocking(f"Device.synchronize() on {self.name}")
        for stream in self.streams:
            stream._mark("synchronize").block()

    async def drain(self, timeout: float | None = None) -> None:
        """Suspend until all work put on the streams so far is done.

        Failures of single launches are not raised here; their launches have them.

        Raises:
            DeadlineError: not done within ``timeout`` seconds.
            DeviceLostError: the device failed for good.
        """
        for stream in self.streams:
            await stream.drained(timeout)

    def close(self) -> None:
        """Stop the device: the running operation ends, queued ones never start.

        Whoever still waits gets ``DeviceClosedError``; ``await drain()`` first to
        finish what is queued. Closing twice does nothing.
        """
        if self._closed_because is None:
            self._closed_because = "it was closed"
            self._close()

    def lose(self, fault: BaseException) -> None:
        """Latch a fault that no later work on the device can survive.

        Every waiter fails once with ``DeviceLostError``; the device stays lost.
        """
        if self._lost is None:
            self._lost = fault
            self._on_lost()

    def lost_error(self) -> DeviceLostError:
        """Build the error for one who needed the lost device."""
        error = DeviceLostError(
            f"device {self.name} is lost: {self._lost!r}; "
            "no work can run on it any more, restart the process"
        )
        error.__cause__ = self._lost
        return error

    def check_usable(self) -> None:
        """Raise unless work can be put on this device.

        Raises:
            DeviceLostError: a fault was latched.
            DeviceClosedError: the device is closed or belongs to a parent process.
        """
        if self._lost is not None:
            raise self.lost_error()
        if self._closed_because is not None:
            raise DeviceClosedError(
                f"device {self.name} cannot be used: {self._closed_because}; "
                "open another with open_device()"
            )

    def add_monitor(self, monitor: DeviceMonitor) -> None:
        """Tell ``monitor`` of every launch, record, wait and finished span."""
        self.monitors = (*self.monitors, monitor)

    def remove_monitor(self, monitor: DeviceMonitor) -> None:
        """Stop telling ``monitor``."""
        self.monitors = tuple(m for m in self.monitors if m is not monitor)

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Keep every poller away from the device while a graph capture is open.

        A query from any thread may break a capture; within this block completion
        counters stand still. Open it around ``torch.cuda.graph`` and the like.
        """
        former, self.is_capturing = self.is_capturing, True
        try:
            yield
        finally:
            self.is_capturing = former

    @abstractmethod
    def _open_stream(self, name: str, priority: int) -> Stream:
        """Make a stream whose handle no other open stream shares."""

    @abstractmethod
    def _close_stream(self, stream: Stream) -> None:
        """Free what one stream holds; its waiters fail."""

    @abstractmethod
    def _close(self) -> None:
        """Stop threads, fail waiters, report failures that nobody saw."""

    @abstractmethod
    def _on_lost(self) -> None:
        """Wake whoever waits, to be told."""


def open_device(
    name: str = "auto",
    *,
    issue: IssueMode = "inline",
    timing: bool = False,
    threads: int = 1,
    seed: int = 0,
    profile: "str | SimProfile" = "random",
    faults: "FaultPlan | None" = None,
) -> Device:
    """Open a device by name.

    Args:
        name: ``"cpu"``, a torch accelerator (``"cuda"``, ``"cuda:1"``, ``"xpu"``,
            ...), ``"sim"``: the simulated device, or ``"auto"``: the accelerator if
            there is one, else the CPU.
        issue: where launches on an accelerator are issued: ``"inline"`` at once on
            the caller's thread (graph replays, short launches) or ``"thread"`` on
            the device's one issuer thread (eager models whose launches alone take
            milliseconds). The CPU device always queues to the stream's worker.
        timing: let an accelerator measure each launch with timing events, so that
            busy fractions and traces are the device's own. Costs two events a
            launch; the CPU device always measures.
        threads: torch threads per stream worker of the CPU device.
        seed: chooses the schedule of the simulated device.
        profile: how long work takes on the simulated device: ``"friendly"``,
            ``"random"``, ``"long_forward"``, ``"slow_copy"``, ``"rocm"``, ``"cuda"``, or
            a ``SimProfile``.
        faults: what goes wrong on the simulated device.

    Raises:
        UnknownDeviceError: no such kind of device.
        DeviceUnavailableError: this machine or this torch has none of it.
        ValueError: an option has no such value, or is none of this device.
    """
    if issue not in ("inline", "thread"):
        raise ValueError(f"issue={issue!r} is unknown; use 'inline' or 'thread'")
    if threads < 1:
        raise ValueError(f"threads={threads} is not positive")
    from streams.accelerator import AcceleratorDevice, accelerator_type
    from streams.cpu import CpuDevice

    kind, _, index = name.partition(":")
    if kind == "sim" and not index:
        from streams.simulated.device import SimDevice

        return SimDevice(seed=seed, profile=profile, faults=faults)
    if (seed, profile, faults) != (0, "random", None):
        raise ValueError(f"seed, profile and faults are options of device 'sim', not of {name!r}")
    available = accelerator_type()
    if kind == "auto" and not index:
        kind = available or "cpu"
    if kind == "cpu" and not index:
        return CpuDevice(threads=threads)
    if kind not in _ACCELERATORS or (index and not index.isdecimal()):
        raise UnknownDeviceError(
            f"device {name!r} is unknown; use 'auto', 'cpu', 'sim', or an accelerator such "
            f"as 'cuda' or 'cuda:1'"
        )
    if kind != available:
        raise DeviceUnavailableError(
            f"device {name!r} is not available: torch {torch.__version__} finds "
            f"{'accelerator ' + repr(available) if available else 'no accelerator'} "
            "here; use 'cpu', or install the torch build for your accelerator"
        )
    return AcceleratorDevice(kind, int(index or 0), issue=issue, timing=timing)


_ACCELERATORS = frozenset({"cuda", "xpu", "mps", "npu", "hpu", "mtia", "privateuseone"})
