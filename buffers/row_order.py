"""Launches that use relay rows, ordered behind the other uses of the same rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from torch import Tensor

from buffers.access import Access
from buffers.errors import NoCurrentStreamError, RowNotWrittenError, StaleRowError
from buffers.row_ledger import RowLedger
from buffers.rows import RowUse, Use
from buffers.slots import Slot
from streams.current import current_stream
from streams.device import Device
from streams.event import Event
from streams.launch import Launch
from streams.monitor import freed, told
from streams.stream import Stream

__all__ = ["RowOrder"]

T = TypeVar("T")


class RowOrder:
    """Enqueues launches that use rows, and keeps the books of every field.

    Attributes:
        published: the event of the latest publish, None before the first.
    """

    def __init__(
        self, device: Device, name: str, tensors: Mapping[str, Tensor], *, strict: bool
    ) -> None:
        self._device = device
        self.published: Event | None = None
        self._name = name
        self._strict = strict
        self._tensors = tensors
        self._ledgers = {
            field: RowLedger(f"{name}.{field}", rows.shape[0]) for field, rows in tensors.items()
        }

    def launch(
        self,
        stream: Stream | None,
        label: str,
        uses: tuple[RowUse, ...],
        fn: Callable[..., T],
        *args: Any,
        **kwargs: Any,
    ) -> Launch[T]:
        """Check, order, enqueue, and only then note; no await, so nothing is half done."""
        stream = self._stream_or_current(stream)
        if self._strict:
            self._check(uses)
        for event in _latest_elsewhere(self._predecessors(uses), stream):
            # RAW: a gather reads rows that stash or publish writes on another stream.
            # WAR: stash and publish rewrite rows that a gather still reads there.
            stream.wait_event(event)
        launch = stream.launch(
            _Dependent(f"{self._name}.{label}", fn, self._sources(uses)),
            *args,
            reads=self._accesses(use for use in uses if use.is_read),
            writes=self._accesses(use for use in uses if self._is_write(use)),
            **kwargs,
        )
        for use in uses:
            self._note(use, launch, stream)
        return launch

    def freed(self, slot: Slot) -> None:
        """Tell checkers that the slot's row of each field may be written by others."""
        if self._device.monitors:
            rows = [Access(self._name, f, (slot.index,), memory) for f, memory in self._rows(slot)]
            freed(self._device, rows, "give_back")

    def _stream_or_current(self, stream: Stream | None) -> Stream:
        stream = stream or current_stream()
        if stream is None:
            raise NoCurrentStreamError(
                f"no device stream is current for relay {self._name!r}; call it inside prepare "
                "or forward, or pass stream="
            )
        return stream

    def _check(self, uses: Iterable[RowUse]) -> None:
        try:
            for use in uses:
                for ledger in self._books(use):
                    check = ledger.check_read if use.is_read else ledger.check_write
                    check(use.rows.refs)
        except (StaleRowError, RowNotWrittenError) as error:
            told(self._device, "stale" if isinstance(error, StaleRowError) else "poison", error)
            raise

    def _predecessors(self, uses: Iterable[RowUse]) -> set[Event]:
        events: set[Event] = set()
        for use in uses:
            for ledger in self._books(use):
                uses_before = ledger.users if self._is_write(use) else ledger.writers
                events |= uses_before(use.rows.refs)
        return events

    def _sources(self, uses: Iterable[RowUse]) -> list[Event]:
        """The writes whose failure makes these reads fail."""
        events: set[Event] = set()
        for use in uses:
            for ledger in self._books(use) if use.is_read else ():
                events |= ledger.writers(use.rows.refs)
        return _in_order(events)

    def _accesses(self, uses: Iterable[RowUse]) -> Iterator[Access]:
        for use in uses:
            rows = tuple(sorted(ref.row for ref in use.rows.refs))
            for field in use.fields if rows else ():
                yield Access(self._name, field, rows, self._tensors[field])

    def _note(self, use: RowUse, launch: Launch[Any], stream: Stream) -> None:
        event, refs = launch.event, use.rows.refs
        if use.use is Use.PUBLISH and refs:
            # A fresh event each time: one recorded again could rebind its waiters.
            event = self.published = stream.record(f"{self._name}.publish")
        for ledger in self._books(use):
            if use.is_read:
                ledger.note_read(refs, event, consumes=use.use is Use.GATHER)
            else:
                ledger.note_write(refs, event)

    def _is_write(self, use: RowUse) -> bool:
        return not use.is_read or (self._strict and use.use is Use.GATHER)  # poison is a write

    def _rows(self, slot: Slot) -> Iterator[tuple[str, Tensor]]:
        return (item for item in self._tensors.items() if slot.index < item[1].shape[0])

    def _books(self, use: RowUse) -> Iterator[RowLedger]:
        return (self._ledgers[field] for field in use.fields)


class _Dependent(Generic[T]):
    """Calls a function, unless a launch failed that was to write what it reads."""

    def __init__(self, name: str, fn: Callable[..., T], sources: Iterable[Event]) -> None:
        self.__name__ = name
        self._fn = fn
        self._sources = sources

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        for event in self._sources:
            event.recorded_on().raise_failure(event.number - 1, event.number)
        return self._fn(*args, **kwargs)


def _latest_elsewhere(events: Iterable[Event], stream: Stream) -> list[Event]:
    """Of each other stream only the last event: streams complete in order."""
    latest = {event.recorded_on(): event for event in _in_order(events)}
    latest.pop(stream, None)
    return list(latest.values())


def _in_order(events: Iterable[Event]) -> list[Event]:
    """In one order always: the sequence of device calls must not depend on hashes."""
    return sorted(events, key=lambda event: (event.recorded_on().name, event.number))
