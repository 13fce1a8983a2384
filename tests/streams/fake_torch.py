"""A stand-in for torch's streams and events, with a device that the test drives.

Native streams are queues of waits, records and holds, and progress whenever somebody looks.
Kernels are not modelled: a launch's function does its tensor arithmetic on the CPU at the
moment of issue. Calls are logged, so that a test can say in which order they were made.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

__all__ = ["FakeEvent", "FakeStream", "FakeTorch"]

_DEFAULT = 0
_PATCHED = (
    "streams.accelerator.native",
    "streams.accelerator.device",
    "streams.accelerator.stream",
)


class Point:
    """What one record captured."""

    def __init__(self) -> None:
        self.is_done = False
        self.time_ms = 0.0


class FakeStream:
    """A native stream: waits, records and holds, in order."""

    fake: "FakeTorch"

    def __init__(self, device: torch.device | None = None, *, priority: int = 0) -> None:
        self.device_index = 0 if device is None else device.index
        self.priority = priority
        self.cuda_stream = self.stream_id = self.fake.deal(priority)
        self.entries: deque[Point | threading.Event] = deque()
        self.fake.all_streams.append(self)

    def wait_event(self, event: "FakeEvent") -> None:
        """Let what is put here later run after the event's last record."""
        self.fake.call("wait", self.cuda_stream, event.name)
        if event.point is not None:
            self.entries.append(_Wait(event.point))

    def synchronize(self) -> None:
        """Block until all that is here is done."""
        self.fake.call("synchronize stream", self.cuda_stream)
        self.fake.block_until(lambda: not self.entries)

    def progress(self) -> bool:
        """Do what can be done now; return whether anything was."""
        moved = False
        while self.entries:
            head = self.entries[0]
            if isinstance(head, _Wait) and not head.point.is_done:
                break
            if isinstance(head, threading.Event) and not head.is_set():
                break
            if isinstance(head, Point):
                head.is_done, head.time_ms = True, time.perf_counter() * 1e3
            self.entries.popleft()
            moved = True
        return moved


class _Wait(Point):
    def __init__(self, point: Point) -> None:
        super().__init__()
        self.point = point


class FakeEvent:
    """A native event; one record after the other."""

    fake: "FakeTorch"

    def __init__(self, *args: object, **options: object) -> None:
        self.options = options
        self.point: Point | None = None
        self.name = f"event {next(self.fake.event_numbers)}"
        self.fake.all_events.append(self)

    def record(self, stream: FakeStream) -> None:
        """Capture what is on ``stream`` now."""
        self.fake.call("record", stream.cuda_stream, self.name)
        self.point = Point()
        stream.entries.append(self.point)

    def query(self) -> bool:
        """Say whether the last record is reached; torch says yes where there was none."""
        self.fake.call("query", self.name)
        self.fake.settle()
        return self.point is None or self.point.is_done

    def synchronize(self) -> None:
        """Block until the record is reached that was the last one at the call."""
        self.fake.call("synchronize", self.name)
        point = self.point
        self.fake.block_until(lambda: point is None or point.is_done)

    def elapsed_time(self, end: "FakeEvent") -> float:
        """Return milliseconds from this record to another; both must be reached."""
        assert self.options["enable_timing"]
        assert self.point is not None
        assert end.point is not None
        assert self.point.is_done
        assert end.point.is_done
        return end.point.time_ms - self.point.time_ms


class FakeTorch:
    """What the accelerator device uses of torch.

    Args:
        kind: the accelerator's device type.
        hip: ``torch.version.hip``.
        count: how many accelerators there are.
        handles: what the pool of native streams deals, over and over.

    Attributes:
        log: native calls so far: verb, then what it was about.
        fault: raised by every native call from now on.
        faulty_verb: only calls of this verb raise the fault; None: all do.
        is_capturing: a query is then a failed test.
    """

    def __init__(
        self,
        kind: str = "cuda",
        *,
        hip: str | None = None,
        count: int = 2,
        handles: Iterable[int] = range(1, 33),
    ) -> None:
        self.log: list[tuple[object, ...]] = []
        self.fault: Exception | None = None
        self.faulty_verb: str | None = None
        self.is_capturing = False
        self.all_streams: list[FakeStream] = []
        self.all_events: list[FakeEvent] = []
        self.event_numbers = itertools.count(1)
        self._handles = itertools.cycle(handles)
        self._moved = threading.Condition(threading.RLock())
        self._current = threading.local()
        self._holds: list[threading.Event] = []
        self._kind = kind
        self.device = torch.device
        self.version = SimpleNamespace(hip=hip)
        self.Stream = type("Stream", (FakeStream,), {"fake": self})
        self.Event = type("Event", (FakeEvent,), {"fake": self})
        self.cuda = SimpleNamespace(
            Stream=type("Stream", (self.Stream,), {}),
            Event=type("Event", (self.Event,), {}),
            current_stream=self.current,
            graph=object,
        )
        self.accelerator = SimpleNamespace(
            is_available=lambda: count > 0,
            current_accelerator=lambda: torch.device(kind),
            device_count=lambda: count,
            current_stream=self.current,
            set_stream=self.set_current,
        )
        self._defaults = [self._default(index) for index in range(count)]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the accelerator device see this instead of torch."""
        for module in _PATCHED:
            monkeypatch.setattr(f"{module}.torch", self)

    def get_device_module(self, kind: str) -> Any:
        """Return the namespace of one device type."""
        assert kind == self._kind
        return self.cuda if kind == "cuda" else SimpleNamespace()

    def deal(self, priority: int) -> int:
        """Return the next handle of the pool."""
        return next(self._handles) - 1000 * priority

    def current(self, device: torch.device | int | None = None) -> FakeStream:
        """Return this thread's current stream, of its current device or of another."""
        index = getattr(self._current, "device", 0) if device is None else device
        index = index.index if isinstance(index, torch.device) else index
        streams: dict[int, FakeStream] = getattr(self._current, "streams", {})
        return streams.get(index, self._defaults[index])

    def set_current(self, stream: FakeStream) -> None:
        """Make a stream, and its device, current on this thread."""
        self.log.append(("set stream", stream.device_index, stream.cuda_stream))
        self._current.device = stream.device_index
        streams = {**getattr(self._current, "streams", {}), stream.device_index: stream}
        self._current.streams = streams

    def call(self, *entry: object) -> None:
        """Log one native call, and fail it if the device is broken."""
        self.log.append(entry)
        assert not (self.is_capturing and entry[0] == "query"), "a query breaks the capture"
        if self.fault is not None and self.faulty_verb in (None, entry[0]):
            raise self.fault

    def hold(self) -> threading.Event:
        """Occupy the current stream until the event is set and ``settle`` called."""
        flag = threading.Event()
        self._holds.append(flag)
        self.current().entries.append(flag)
        return flag

    def release_holds(self) -> None:
        """Let all that ``hold`` occupied so far go on."""
        for flag in self._holds:
            flag.set()
        self.wake()

    def settle(self) -> None:
        """Let every stream do what it can."""
        with self._moved:
            moved = True
            while moved:
                moved = False
                for stream in self.all_streams:
                    moved |= stream.progress()

    def block_until(self, is_done: Any) -> None:
        """Block this thread until ``is_done()``, while others release holds."""
        with self._moved:
            self.settle()
            while not is_done():
                if not self._moved.wait(timeout=20):
                    raise TimeoutError("nobody woke the fake device for 20 s")
                self.settle()

    def wake(self) -> None:
        """Let blocked threads look again."""
        with self._moved:
            self._moved.notify_all()

    def named(self, *verbs: str) -> list[tuple[object, ...]]:
        """Return the logged calls of these verbs."""
        return [entry for entry in self.log if entry[0] in verbs]

    @contextmanager
    def graph_capture(self) -> Iterator[None]:
        """Stand in for ``torch.cuda.graph``: no query is allowed inside."""
        self.is_capturing = True
        try:
            yield
        finally:
            self.is_capturing = False

    def _default(self, index: int) -> FakeStream:
        stream: FakeStream = self.cuda.Stream(torch.device(self._kind, index))
        stream.cuda_stream = stream.stream_id = _DEFAULT
        return stream
