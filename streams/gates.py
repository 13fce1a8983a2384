"""What the next operation of a stream waits for."""

from typing import TYPE_CHECKING

from streams.event import Event

if TYPE_CHECKING:
    from streams.launch import Operation
    from streams.stream import Stream

__all__ = ["Gates"]


class Gates:
    """Events of other streams; by stream, the latest covers earlier ones.

    Args:
        stream: whose operations wait; its own events need no gate.
    """

    def __init__(self, stream: "Stream") -> None:
        self._stream = stream
        self._events: dict[Stream, Event] = {}

    def __bool__(self) -> bool:
        return bool(self._events)

    def add(self, event: Event) -> None:
        """Wait for an event too, unless it is known to be complete."""
        other = event.recorded_on()
        if other is self._stream or other.completed >= event.number:
            return
        former = self._events.get(other)
        if former is None or former.number < event.number:
            self._events[other] = event

    def add_all(self, gates: "Gates") -> None:
        """Wait for what another stream's next operation waits for."""
        for event in gates._events.values():
            self.add(event)

    def take(self) -> tuple[Event, ...]:
        """Give the events to an operation, which then waits in place of later ones."""
        events, self._events = tuple(self._events.values()), {}
        return events

    def are_those_of(self, operation: "Operation") -> bool:
        """Whether an operation waits for no less than the next one would."""
        waits_for = {event.stream: event.number for event in operation.gates}
        return all(waits_for.get(other, 0) >= event.number for other, event in self._events.items())
