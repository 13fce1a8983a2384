"""A point on a stream's timeline, and how a coroutine waits for it.

An event is the pair (stream, number): complete once the stream's completion
counter has reached the number, like a timeline semaphore. Recording again makes
another event, so a waiter can never be rebound to a later record.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from streams.bridge import running_bridge
from streams.current import WorkTag, current_stream
from streams.errors import EventNotRecordedError
from streams.guard import check_blocking
from streams.monitor import told

if TYPE_CHECKING:
    from streams.device import Device
    from streams.stream import Stream

__all__ = ["Event"]


class Event:
    """One record on one device stream.

    ``Stream.record`` makes recorded events. ``Event("label")`` by itself is a
    placeholder that nothing recorded: waiting for it raises
    ``EventNotRecordedError`` (torch would call it complete at once).

    Attributes:
        label: what the event says, for errors and traces.
        stream: the stream that recorded it, None for a placeholder.
        number: the last operation that it covers; complete when the stream's
            ``completed`` has reached it.
        tag: step and stage that recorded it, where known.
        clocks: for hazard checkers: what each knows to come before this point.
    """

    __slots__ = ("_since", "clocks", "label", "number", "stream", "tag")

    def __init__(
        self,
        label: str = "event",
        *,
        stream: "Stream | None" = None,
        number: int = 0,
        since: int = 0,
        tag: WorkTag | None = None,
    ) -> None:
        self.label = label
        self.stream = stream
        self.number = number
        self.tag = tag
        self.clocks: dict[Any, Any] | None = None
        # Failures of the operations in (since, number] are this event's to report.
        self._since = since

    def __repr__(self) -> str:
        if self.stream is None:
            return f"<Event {self.label!r} not recorded>"
        state = "complete" if self.stream.completed >= self.number else "pending"
        of = f" of {self.tag}" if self.tag else ""
        return f"<Event {self.label!r}{of} on {self.stream.name!r} #{self.number} {state}>"

    def recorded_on(self, for_device: "Device | None" = None) -> "Stream":
        """Return the stream that recorded this event.

        Args:
            for_device: whose monitors to tell if there is none; by default those of the
                current stream's device.

        Raises:
            EventNotRecordedError: nothing ever recorded it.
        """
        if self.stream is None:
            if for_device is None and (current := current_stream()) is not None:
                for_device = current.device
            error = EventNotRecordedError(
                f"event {self.label!r} was never recorded; "
                f"take the event that Stream.record({self.label!r}) returns"
            )
            raise told(for_device, "unrecorded", error)
        return self.stream

    def query(self) -> bool:
        """Ask, without waiting, whether the device has reached this point.

        While a graph capture is open on the device nothing is asked of it, and
        the answer is what was known before.

        Raises:
            EventNotRecordedError: nothing ever recorded it.
            DeviceLostError: the device failed before it got here.
            DeviceClosedError: the device was closed before it got here.
        """
        stream = self.recorded_on()
        complete = stream.advance(self.number) >= self.number
        if complete and stream.device.monitors:
            self._was_observed()
        return complete

    def __await__(self) -> Generator[Any, Any, None]:
        return self.wait().__await__()

    async def wait(self, timeout: float | None = None) -> None:
        """Suspend this coroutine until the device has reached this point.

        The thread never blocks. Cancelling the waiter cancels neither the device
        work nor the memory that the work uses.

        Args:
            timeout: seconds to wait at most; None waits until cancelled.

        Raises:
            DeadlineError: not complete in time; names label, stream, step, queue.
            EventNotRecordedError: nothing ever recorded it.
            DeviceLostError: the device failed before it got here.
            DeviceClosedError: the device was closed before it got here.
            Exception: what a launch raised that was put on the stream between the
                previous record and this one.
        """
        await self.reached(timeout)
        self.recorded_on().raise_failure(self._since, self.number)

    async def reached(self, timeout: float | None = None) -> None:
        """Suspend like ``wait``, but leave failed launches to whoever holds them.

        Args:
            timeout: seconds to wait at most; None waits until cancelled.

        Raises:
            DeadlineError: not complete in time; names label, stream, step, queue.
            EventNotRecordedError: nothing ever recorded it.
            DeviceLostError: the device failed before it got here.
            DeviceClosedError: the device was closed before it got here.
        """
        if self.query():
            return
        await running_bridge().wait(self, timeout)
        self._was_observed()

    def synchronize(self) -> None:
        """Block this thread until the device has reached this point.

        Raises:
            HostBlockedError: called on the event loop's thread inside a guarded
                task in strict mode; await the event instead.
        """
        stream = self.recorded_on()
        check_blocking(f"Event.synchronize() on {self.label!r}")
        self.block()
        stream.raise_failure(self._since, self.number)

    def block(self) -> None:
        """Block this thread like ``synchronize``, unguarded, and leave failures alone.

        For what has asked the guard itself, and for threads that may wait.
        """
        self.recorded_on().block_until(self.number)
        self._was_observed()

    def _was_observed(self) -> None:
        for monitor in self.recorded_on().device.monitors:
            monitor.on_observed(self)
