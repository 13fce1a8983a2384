"""A hardware queue of the simulated device: what runs when, and for how long."""

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from streams.current import use_stream
from streams.event import Event
from streams.launch import Operation
from streams.simulated.faults import Fault, FaultKind, error_of
from streams.simulated.latch import Latch
from streams.simulated.neutral import call_apart
from streams.simulated.sampling import Sample, run_sampled, sample_of
from streams.simulated.stream import SimStream

if TYPE_CHECKING:
    from streams.simulated.device import SimDevice

__all__ = ["Entry", "SimQueue"]


@dataclass(slots=True, eq=False)
class Entry:
    """An operation in a queue.

    Attributes:
        faults: what strikes it.
        start_ns: when it began; None before.
        waits_for: the gate that keeps it at the head of the queue from beginning.
        kept_by: why it has begun and will not end by itself; "" if it will.
        samples: what it reads.
    """

    stream: SimStream
    operation: Operation
    faults: tuple[Fault, ...] = ()
    start_ns: int | None = None
    waits_for: Event | None = None
    kept_by: str = ""
    samples: list[Sample] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.operation} on {self.stream.name!r}"


class SimQueue:
    """Runs operations one after the other, in the order in which they were issued.

    An operation begins when it is the oldest and its gates are complete, and then takes
    the time that profile and seed give it. All methods belong to whoever holds the lock
    of the device's timeline.
    """

    def __init__(self, device: "SimDevice") -> None:
        self.entries: deque[Entry] = deque()
        self._device = device
        self._timeline = device.timeline

    def put(self, stream: SimStream, operation: Operation) -> None:
        """Take an operation in; it may begin at once."""
        self.entries.append(Entry(stream, operation, self._device.faults.at(operation)))
        self.step()

    def drop(self, stream: SimStream) -> None:
        """Forget the operations of a stream that was closed; one that runs never ends."""
        dropped = [entry for entry in self.entries if entry.stream is stream]
        self._timeline.latched.difference_update(dropped)
        self.entries = deque(entry for entry in self.entries if entry.stream is not stream)
        self.step()

    def waiting_on(self, stream: SimStream, number: int) -> Iterable[Entry]:
        """Give the unfinished operations of one stream, up to a number."""
        return (e for e in self.entries if e.stream is stream and e.operation.number <= number)

    def step(self) -> None:
        """Begin with the oldest operation, if it has not begun and nothing keeps it."""
        if not self.entries or self._device.is_stopped:
            return
        entry = self.entries[0]
        if entry.start_ns is None and not self._is_gated(entry):
            entry.start_ns = self._timeline.now_ns
            self._begin(entry, entry.start_ns)

    def _is_gated(self, entry: Entry) -> bool:
        """Whether a gate is still open; the entry is stepped on when it closes."""
        for gate in entry.operation.gates:
            stream = gate.recorded_on()
            if stream.completed >= gate.number:
                continue
            if stream.is_closed:
                # What waits for a closed stream fails; this stream goes on.
                entry.stream.failures.fail(entry.operation, stream._unfinished(gate.number))
                break
            if entry.waits_for is not gate:
                entry.waits_for = gate
                assert isinstance(stream, SimStream)
                stream.when_done(gate.number, self.step)
            return True
        entry.waits_for = None
        return False

    def _begin(self, entry: Entry, start_ns: int) -> None:
        if (hang := self._device.faults.activate(entry.faults, FaultKind.LAUNCH_HANGS)) is not None:
            entry.kept_by = f"hangs ({hang})"
            return
        dice = self._dice(entry)
        duration_ns = self._draw_ns(entry, dice)
        # Sampled also in the last moment: before the end, where all that was read is needed.
        for sample in filter(None, map(sample_of, entry.operation.reads)):
            entry.samples.append(sample)
            take = partial(call_apart, sample.take)
            self._timeline.call_at(start_ns + dice.randint(0, duration_ns), take)
        self._timeline.call_at(start_ns + duration_ns, partial(self._end, entry))

    def _dice(self, entry: Entry) -> random.Random:
        """Dice of this operation alone: what runs on other streams changes no throw."""
        operation = entry.operation
        key = (entry.stream.name, operation.number, operation.label, _stage(operation))
        return random.Random(f"{self._device.seed}/{'/'.join(map(str, key))}")

    def _draw_ns(self, entry: Entry, dice: random.Random) -> int:
        operation = entry.operation
        if operation.fn is None or operation.launch.failure is not None:
            return 0
        duration_ns = self._device.profile.draw_ns(dice, _stage(operation), operation.label)
        slow = self._device.faults.activate(
            entry.faults, FaultKind.SLOW_COPY, FaultKind.SLOW_LAUNCH
        )
        return duration_ns if slow is None else round(duration_ns * slow.factor)

    def _end(self, entry: Entry) -> None:
        """Its time is over; it ends unless it is latched, or was dropped meanwhile."""
        if not self.entries or self.entries[0] is not entry or self._device.is_stopped:
            return
        latch = entry.operation.fn
        if isinstance(latch, Latch) and latch.when_released(partial(self._released, entry)):
            entry.kept_by = f"is held by {latch!r}"
            self._timeline.latched.add(entry)
        else:
            self._finish(entry)

    def _released(self, entry: Entry) -> None:
        """A latch was released, on whatever thread."""
        with self._timeline.changed:
            self._timeline.latched.discard(entry)
            if not self._device.is_stopped:
                self._timeline.call_soon(partial(self._end, entry))

    def _finish(self, entry: Entry) -> None:
        faults = self._device.faults
        if (lost := faults.activate(entry.faults, FaultKind.DEVICE_LOST)) is not None:
            self._device.lose(error_of(lost, entry.operation))
            return
        call_apart(partial(self._execute, entry))
        if self._device.lost is not None:
            return  # a lost device completes nothing, also not what was running
        assert entry.start_ns is not None
        # Another clock may have taken over while a latch held it.
        end_ns = max(entry.start_ns, self._timeline.now_ns)
        entry.stream.finish(entry.operation, entry.start_ns, end_ns)
        if self.entries and self.entries[0] is entry:  # or its function closed the stream
            self.entries.popleft()
        self._wake(entry)
        self.step()

    def _execute(self, entry: Entry) -> None:
        raises = (FaultKind.LAUNCH_RAISES, FaultKind.OUT_OF_MEMORY)
        with use_stream(entry.stream):
            if entry.operation.launch.failure is not None:
                return  # of a gate
            if (fault := self._device.faults.activate(entry.faults, *raises)) is not None:
                entry.stream.failures.fail(entry.operation, error_of(fault, entry.operation))
                entry.samples.clear()
            else:
                run_sampled(entry.samples, partial(entry.stream.failures.execute, entry.operation))

    def _wake(self, entry: Entry) -> None:
        """Tell who waits, or, by a fault, see to it later."""
        due = entry.stream.take_due()
        if due and (late := self._device.faults.activate(entry.faults, FaultKind.LATE_WAKEUP)):
            at_ns = self._timeline.now_ns + round(late.delay_us * 1e3)
            for callback in due:
                self._timeline.call_at(at_ns, callback)
        else:
            for callback in due:
                callback()


def _stage(operation: Operation) -> str | None:
    return None if operation.tag is None else operation.tag.stage
