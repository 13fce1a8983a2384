"""What an observer of a device is told: the seam for tracing and hazard checking.

A device without monitors pays one branch per call. Calls come from the thread on
which the thing happened (``on_span`` from a worker thread on the CPU device), so a
monitor that keeps state must append atomically or hold a lock.
"""

from typing import TYPE_CHECKING, NamedTuple

from streams.current import WorkTag

if TYPE_CHECKING:
    from streams.event import Event
    from streams.launch import Operation
    from streams.stream import Stream

__all__ = ["DeviceMonitor", "Span"]


class Span(NamedTuple):
    """One launch as the device ran it; times in seconds of ``time.perf_counter``."""

    stream: str
    label: str
    number: int
    tag: WorkTag | None
    start_s: float
    end_s: float
    failed: bool


class DeviceMonitor:
    """Override what you want to see; every method does nothing by default."""

    def on_launch(self, operation: "Operation") -> None:
        """``operation`` was put on its stream; it has not run yet.

        Its arguments and accesses are there now; it lets go of them when it is done.
        """

    def on_record(self, event: "Event") -> None:
        """``event`` now stands for all work put on its stream so far."""

    def on_wait(self, stream: "Stream", event: "Event") -> None:
        """Work put on ``stream`` from now on runs after ``event``."""

    def on_observed(self, event: "Event") -> None:
        """The host learned, by query or await, that ``event`` is complete."""

    def on_span(self, span: Span) -> None:
        """A launch has finished; timing is the device's own where it has any."""
