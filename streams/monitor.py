"""What an observer of a device is told: the seam for tracing and hazard checking.

A device without monitors pays one branch per call. Calls come from the thread on
which the thing happened (``on_span`` from a worker thread on the CPU device), so a
monitor that keeps state must append atomically or hold a lock.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from streams.current import WorkTag

if TYPE_CHECKING:
    from torch import Tensor

    from streams.device import Device
    from streams.event import Event
    from streams.hazards.access import Access
    from streams.launch import Launch, Operation
    from streams.stream import Stream

__all__ = ["DeviceMonitor", "Span", "freed", "host_reads", "host_writes", "told"]

Error = TypeVar("Error", bound=BaseException)


class Span(NamedTuple):
    """One launch as the device ran it; times in seconds of ``streams.clock.perf_s``."""

    stream: str
    label: str
    number: int
    tag: WorkTag | None
    start_s: float
    end_s: float
    failed: bool


class DeviceMonitor:
    """Override what you want to see; every method does nothing by default."""

    @contextmanager
    def watch(self, device: "Device") -> Iterator[Self]:
        """Be told by ``device`` for the length of the block."""
        device.add_monitor(self)
        try:
            yield self
        finally:
            device.remove_monitor(self)

    def on_launch(self, operation: "Operation") -> None:
        """``operation`` was put on its stream; it has not run yet.

        Its arguments and accesses are there now; it lets go of them when it is done.
        """

    def on_record(self, event: "Event") -> None:
        """``event`` now stands for all work put on its stream so far."""

    def on_drain(self, event: "Event") -> None:
        """``event`` stands for the last operation on its stream, and somebody waits for that.

        Unlike a recorded one it does not stand for waits that no operation came behind.
        """

    def on_wait(self, stream: "Stream", event: "Event") -> None:
        """Work put on ``stream`` from now on runs after ``event``."""

    def on_observed(self, event: "Event") -> None:
        """The host learned, by query or await, that ``event`` is complete."""

    def on_span(self, span: Span) -> None:
        """A launch has finished; timing is the device's own where it has any."""

    def on_host_access(
        self, device: "Device", memory: "Tensor | Access | Launch[Any]", *, is_write: bool
    ) -> None:
        """The host itself reads or writes memory that ``device`` uses too.

        A launch stands for its value.
        """

    def on_free(self, device: "Device", memory: "Iterable[Tensor | Access]", what: str) -> None:
        """Others may have ``memory`` from now on: for its former users that is a write.

        ``what`` names the act.
        """

    def on_misuse(self, device: "Device", kind: str, message: str) -> None:
        """Something was refused that a checker shall know of even if the error is lost.

        ``kind`` is one of ``"unrecorded"``, ``"issuer"``, ``"torch_mode"``, ``"stale"``,
        ``"poison"``.
        """


def told(device: "Device | None", kind: str, error: Error) -> Error:
    """Tell the monitors of ``device``, where one is known, of a misuse, and return its error."""
    if device is not None:
        for monitor in device.monitors:
            monitor.on_misuse(device, kind, str(error))
    return error


def host_reads(device: "Device", memory: "Tensor | Access") -> None:
    """Tell the monitors of ``device`` that the host is about to read what it uses too.

    For memory of one's own; the buffers of this library tell by themselves, and so does a
    launch whose value is taken.
    """
    for monitor in device.monitors:
        monitor.on_host_access(device, memory, is_write=False)


def host_writes(device: "Device", memory: "Tensor | Access") -> None:
    """Tell the monitors of ``device`` that the host is about to write what it uses too."""
    for monitor in device.monitors:
        monitor.on_host_access(device, memory, is_write=True)


def freed(device: "Device", memory: "Iterable[Tensor | Access]", what: str) -> None:
    """Tell the monitors of ``device`` that others may have ``memory`` from now on."""
    for monitor in device.monitors:
        monitor.on_free(device, memory, what)
