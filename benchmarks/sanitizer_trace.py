"""torch's CUDA sanitizer, told what it cannot see: what the host learned by polling.

torch traces records, waits and synchronizations of native events, but no ``query``. So a launch
that follows a true query looks unordered to the sanitizer. ``Polling`` reports true queries
through torch's own trace (``torch.cuda._gpu_trace``, private), as if the host had synchronized.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch.cuda._gpu_trace as gpu_trace
from torch import Tensor
from torch._utils import CallbackRegistry
from torch.cuda._sanitizer import (
    CUDASanitizerDispatchMode,
    EventHandler,
    SynchronizationError,
)

from streams.accelerator.stream import AcceleratorStream
from streams.device import Device
from streams.event import Event
from streams.hazards import Access
from streams.launch import Operation
from streams.monitor import DeviceMonitor
from streams.stream import Stream

__all__ = [
    "Declared",
    "Polling",
    "Tracing",
    "by_hand",
    "on_cuda",
    "register",
    "registries_restored",
]

Found = list[SynchronizationError]
Tracing = Callable[[Device, bool], AbstractContextManager[Found]]
"""Watches a device, taught about polling or not; the list fills with what is found."""


class Polling(DeviceMonitor):
    """Tells torch's sanitizer what the host has learned by true queries.

    For each point that may be observed it makes up an event of its own, with a negative number:
    a native event may be recorded anew before the host acts on its query.

    Args:
        handle_of: by which number the sanitizer knows a stream.
        at_issue: whether a launch's kernels are traced when its function is called; else when
            it is put.
    """

    def __init__(self, handle_of: Callable[[Stream], int], *, at_issue: bool) -> None:
        self._handle_of = handle_of
        self._at_issue = at_issue
        self._names = itertools.count(-1, -1)
        self._points: dict[tuple[Stream, int], int] = {}
        self._waits: defaultdict[Stream, list[Event]] = defaultdict(list)

    def on_launch(self, operation: Operation) -> None:
        """Mark the end of a launch."""
        event = operation.launch.event
        if self._at_issue and operation.fn is not None:
            operation.fn = _Marked(self, operation.fn, event)
        else:
            self.mark(event)

    def on_record(self, event: Event) -> None:
        """Mark the point."""
        self.mark(event)

    def on_wait(self, stream: Stream, event: Event) -> None:
        """Note a wait: none is made natively for what the host knows to be complete."""
        self._waits[stream].append(event)
        self.tell_complete(stream)

    def on_observed(self, event: Event) -> None:
        """Tell of a true query, as if the host had synchronized with the event."""
        point = self._point(event)
        if point is not None:
            gpu_trace.EventSynchronizationCallbacks.fire_callbacks(point)

    def mark(self, event: Event) -> None:
        """Let a made-up event stand for ``event``."""
        stream = event.recorded_on()
        self.tell_complete(stream)
        key = stream, event.number
        if key not in self._points:
            self._points[key] = next(self._names)
            gpu_trace.EventCreationCallbacks.fire_callbacks(self._points[key])
        gpu_trace.EventRecordCallbacks.fire_callbacks(self._points[key], self._handle_of(stream))

    def tell_complete(self, stream: Stream, *, forget: bool = False) -> None:
        """Tell of the waits of ``stream`` that are for something complete.

        Args:
            stream: which.
            forget: the others have been made natively, and traced, by now.
        """
        pending = []
        for event in self._waits[stream]:
            if not is_known_complete(event):
                pending.append(event)
            elif (point := self._point(event)) is not None:
                gpu_trace.EventWaitCallbacks.fire_callbacks(point, self._handle_of(stream))
        self._waits[stream] = [] if forget else pending

    def _point(self, event: Event) -> int | None:
        return self._points.get((event.recorded_on(), event.number))


class _Marked:
    """The function of a launch; its native waits are made by the time it is called."""

    def __init__(self, polling: Polling, fn: Callable[..., Any], event: Event) -> None:
        self._polling, self._fn, self._event = polling, fn, event

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._polling.tell_complete(self._event.recorded_on(), forget=True)
        try:
            return self._fn(*args, **kwargs)
        finally:
            self._polling.mark(self._event)


class Declared(DeviceMonitor):
    """Feeds a sanitizer with what an accelerator would trace, from what launches declare.

    For devices that torch does not trace. Kernels count when they are put. Rows of a buffer are
    known by the address of each.

    Args:
        handler: torch's.
        handle_of: by which number the sanitizer knows a stream.
        found: gets what is found.
    """

    def __init__(
        self, handler: EventHandler, handle_of: Callable[[Stream], int], found: Found
    ) -> None:
        self._handler, self._handle_of, self._found = handler, handle_of, found
        self._names = itertools.count(1)
        self._events: dict[tuple[Stream, int], int] = {}

    def on_launch(self, operation: Operation) -> None:
        """Hand over a kernel, and the native event behind it."""
        event = operation.launch.event
        writes = _addresses(operation.writes)
        reads = _addresses(operation.reads) - writes
        aliases: dict[int, list[str]] = {address: [] for address in reads | writes}
        self._found += self._handler._handle_kernel_launch(
            self._handle_of(event.recorded_on()), reads, writes, set(), operation.label, aliases
        )
        self.on_record(event)

    def on_record(self, event: Event) -> None:
        """Hand over a record."""
        stream = event.recorded_on()
        gpu_trace.EventRecordCallbacks.fire_callbacks(self._event(event), self._handle_of(stream))

    def on_wait(self, stream: Stream, event: Event) -> None:
        """Hand over a wait, unless an accelerator would make none."""
        # A stream that only waits has passed its last number, but what it waits for counts.
        if not is_known_complete(event) or event.recorded_on()._gates:
            gpu_trace.EventWaitCallbacks.fire_callbacks(self._event(event), self._handle_of(stream))

    def _event(self, event: Event) -> int:
        key = event.recorded_on(), event.number
        if key not in self._events:
            self._events[key] = next(self._names)
            gpu_trace.EventCreationCallbacks.fire_callbacks(self._events[key])
        return self._events[key]


class _Collecting(CUDASanitizerDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """torch's sanitizer; keeps what it finds instead of breaking the program off."""

    def __init__(self, found: Found) -> None:
        super().__init__()
        analyse = self.event_handler._handle_kernel_launch

        def collect(*args: Any) -> Found:
            found.extend(analyse(*args))
            return []

        # The mode calls it by this name, and raises unless the list is empty.
        setattr(self.event_handler, "_handle_kernel_launch", collect)  # noqa: B010


@contextmanager
def on_cuda(device: Device, is_taught: bool) -> Iterator[Found]:
    """Let torch's sanitizer watch what this thread issues to a CUDA device, inline."""
    found: Found = []
    with registries_restored(), _Collecting(found):
        polling = Polling(_native_handle, at_issue=True)
        if is_taught:
            device.add_monitor(polling)
        yield found
        device.remove_monitor(polling)


@contextmanager
def by_hand(device: Device, is_taught: bool) -> Iterator[Found]:
    """Feed torch's sanitizer from the declared accesses on a device without tracing."""
    found: Found = []
    handler = EventHandler()
    handles: defaultdict[Stream, int] = defaultdict(itertools.count(1).__next__)
    with registries_restored():
        register(handler)
        monitors: list[DeviceMonitor] = [Declared(handler, handles.__getitem__, found)]
        if is_taught:
            monitors.append(Polling(handles.__getitem__, at_issue=False))
        for monitor in monitors:
            device.add_monitor(monitor)
        yield found
        for monitor in monitors:
            device.remove_monitor(monitor)


def is_known_complete(event: Event) -> bool:
    """Whether the host has seen it done already."""
    return event.recorded_on().completed >= event.number


def _native_handle(stream: Stream) -> int:
    assert isinstance(stream, AcceleratorStream)
    return stream.device.native.handle(stream.native)


def _addresses(accesses: tuple[object, ...]) -> set[int]:
    return {address for access in accesses for address in _addresses_of(access)}


def _addresses_of(access: object) -> set[int]:
    if isinstance(access, Tensor):
        return {access.data_ptr()}
    assert isinstance(access, Access)
    memory = access.memory
    row_bytes = memory.stride(0) * memory.element_size()
    return {memory.data_ptr() + row * row_bytes for row in access.rows}


def register(handler: EventHandler) -> None:
    """Let torch's trace tell ``handler`` of events."""
    gpu_trace.register_callback_for_event_creation(handler._handle_event_creation)
    gpu_trace.register_callback_for_event_record(handler._handle_event_record)
    gpu_trace.register_callback_for_event_wait(handler._handle_event_wait)
    gpu_trace.register_callback_for_event_synchronization(handler._handle_event_synchronization)


@contextmanager
def registries_restored() -> Iterator[None]:
    """Take away, at the end, the callbacks that were registered: torch has no way to."""
    registries = [r for r in vars(gpu_trace).values() if isinstance(r, CallbackRegistry)]
    former = [list(registry.callback_list) for registry in registries]
    try:
        yield
    finally:
        for registry, callbacks in zip(registries, former, strict=True):
            registry.callback_list[:] = callbacks
