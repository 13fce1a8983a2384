"""The sequence of device calls of a run, to compare runs by."""

import hashlib
from typing import TYPE_CHECKING

from streams.monitor import DeviceMonitor

if TYPE_CHECKING:
    from streams.event import Event
    from streams.launch import Operation
    from streams.stream import Stream

__all__ = ["CallLog"]


class CallLog(DeviceMonitor):
    """Notes every launch, record and wait, in order, by stream, name and step.

    One issuer makes all calls in step order, so for one and the same trace of requests
    every run has one and the same sequence, whatever the device's timing: its digest shows it.

    Attributes:
        calls: one line for each.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []

    @property
    def digest(self) -> str:
        """A hash of the sequence."""
        return hashlib.blake2b("\n".join(self.calls).encode(), digest_size=8).hexdigest()

    def on_launch(self, operation: "Operation") -> None:
        """Note a launch."""
        self.calls.append(f"launch {operation} on {operation.launch.event.recorded_on().name}")

    def on_record(self, event: "Event") -> None:
        """Note a record."""
        self.calls.append(f"record {event.label} #{event.number} on {event.recorded_on().name}")

    def on_wait(self, stream: "Stream", event: "Event") -> None:
        """Note a wait."""
        on = event.recorded_on().name
        self.calls.append(f"wait on {stream.name} for {event.label} #{event.number} of {on}")
