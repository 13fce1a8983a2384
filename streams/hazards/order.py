"""Happens-before among device streams and the host: vector clocks.

A clock says, for each actor, up to which of its accesses something surely comes after.
An access of a stream is counted by the number of its operation, one of the host by how
often the host has passed its order on. A clock travels with each ``Event``: what the
garbage collector takes with it, nobody can wait for any more.
"""

from collections import deque
from itertools import count
from typing import TYPE_CHECKING

from streams.event import Event

if TYPE_CHECKING:
    from streams.device import Device
    from streams.stream import Stream

__all__ = ["Actor", "Clock", "HostActor", "Order", "StreamActor", "join"]

Clock = dict[int, int]

_INTERNAL = frozenset({"wait_stream", "synchronize", "drained"})
_NUM_RECORDS = 256


def join(clock: Clock, other: Clock) -> None:
    """Let ``clock`` come after all that ``other`` comes after."""
    for actor, number in other.items():
        if clock.get(actor, 0) < number:
            clock[actor] = number


class Actor:
    """Whose accesses are ordered among themselves.

    Attributes:
        id: its key in clocks.
        name: the stream's, the task's, the rank's, or ``"host"``.
        clock: what its next access comes after, and its own accesses so far.
        passed: what those come after who come after this actor, if that is not all of ``clock``.
    """

    __slots__ = ("clock", "id", "name", "passed")

    def __init__(self, actor_id: int, name: str) -> None:
        self.id = actor_id
        self.name = name
        self.clock: Clock = {}
        self.passed: Clock | None = None


class HostActor(Actor):
    """The host, one rank of it, or in strict mode one task.

    Attributes:
        joined_by: in words, what orders another one behind it.
    """

    __slots__ = ("_count", "_has_accessed")
    joined_by = "an await, a wake-up or handoff"

    def __init__(self, actor_id: int, name: str) -> None:
        super().__init__(actor_id, name)
        self._count = 1
        self._has_accessed = False

    def access(self) -> int:
        """Count an access made now."""
        self._has_accessed = True
        self.clock[self.id] = self._count
        return self._count

    def learn(self, clock: Clock) -> None:
        """Come after ``clock`` from now on."""
        join(self.clock, clock)

    def close_epoch(self) -> None:
        """Let the clock, as it is now, not stand for later accesses."""
        if self._has_accessed:
            self._has_accessed = False
            self._count += 1

    def release(self) -> Clock:
        """Return what comes before whatever is begun now; later accesses do not."""
        self.close_epoch()
        return dict(self.clock)


class StreamActor(Actor):
    """A device stream.

    Attributes:
        number: its last operation that is known of.
        done: the clock of that operation; without waits that no operation stands behind yet.
        records: numbers and names of the latest events that users recorded.
    """

    __slots__ = ("done", "number", "records")

    def __init__(self, actor_id: int, name: str) -> None:
        super().__init__(actor_id, name)
        self.number = 0
        self.done: Clock = {}
        self.records: deque[tuple[int, str]] = deque(maxlen=_NUM_RECORDS)

    def record_behind(self, number: int) -> str | None:
        """Name the first event that covers an operation, if one was recorded."""
        return next((name for at, name in self.records if at >= number), None)


class Order:
    """The edges: what each launch, event and observation comes after."""

    def __init__(self) -> None:
        self.ids = count(1)
        self._streams: dict[Stream, StreamActor] = {}

    def stream(self, stream: "Stream") -> StreamActor:
        """Return the actor of a stream."""
        actor = self._streams.get(stream)
        if actor is None:
            self._forget_closed()
            actor = self._streams[stream] = StreamActor(next(self.ids), stream.name)
        return actor

    def name_device(self, device: "Device") -> str:
        """Name a device where streams of several are known; else return nothing."""
        known = list(dict.fromkeys((*(stream.device for stream in self._streams), device)))
        if len(known) == 1:
            return ""
        alike = [other for other in known if other.name == device.name]
        return device.name if len(alike) == 1 else f"{device.name} ({alike.index(device) + 1})"

    def launch(self, event: Event, host: HostActor) -> StreamActor:
        """Host -> stream: the launch that ends with ``event`` comes after what the host did."""
        actor = self.stream(event.recorded_on())
        join(actor.clock, host.release())
        actor.clock[actor.id] = actor.number = event.number
        actor.done = dict(actor.clock)
        self._keep(event, actor.done)
        return actor

    def record(self, event: Event) -> None:
        """Stream -> event.

        Waits without an operation behind them count: either one was just put on the stream for
        them, or the last one waits for no less, or it is ``wait_stream``, which takes them over.
        """
        actor = self.stream(event.recorded_on())
        if event.label not in _INTERNAL:
            name = f"{event.label}#{event.tag.step}" if event.tag else event.label
            actor.records.append((event.number, name))
        is_new = event.number > actor.number
        actor.clock[actor.id] = max(event.number, actor.number)
        clock = dict(actor.clock)
        # wait_stream puts nothing on the stream whose waits it takes over.
        if is_new or event.label != "wait_stream":
            actor.number, actor.done = max(event.number, actor.number), clock
        self._keep(event, clock)

    def drain(self, event: Event) -> None:
        """The last operation -> event; later waits are not among it."""
        self._keep(event, self.stream(event.recorded_on()).done)

    def wait(self, stream: "Stream", event: Event) -> None:
        """Event -> stream."""
        join(self.stream(stream).clock, self.clock_of(event))

    def observe(self, event: Event, host: HostActor) -> None:
        """Event -> host."""
        host.learn(self.clock_of(event))

    def is_behind(self, event: Event, actor: Actor) -> bool:
        """Whether what ``actor`` does now comes after ``event``."""
        return all(actor.clock.get(a, 0) >= number for a, number in self.clock_of(event).items())

    def clock_of(self, event: Event) -> Clock:
        """Return what comes before ``event``.

        Of one that was recorded before anybody looked only its own stream is known.
        """
        clock = event.clocks.get(self) if event.clocks else None
        return clock if clock is not None else {self.stream(event.recorded_on()).id: event.number}

    def _keep(self, event: Event, clock: Clock) -> None:
        if event.clocks is None:
            event.clocks = {}
        event.clocks[self] = clock

    def _forget_closed(self) -> None:
        self._streams = {s: actor for s, actor in self._streams.items() if not s.is_closed}
