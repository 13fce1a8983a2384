"""Every accelerator that torch has, through its streams and events."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from streams.accelerator.issuer import Issuer
from streams.accelerator.native import CudaNative, Native
from streams.accelerator.stream import AcceleratorStream, Issued
from streams.device import Capabilities, Device, IssueMode, Platform
from streams.errors import CaptureOpenError, DeviceUnavailableError
from streams.lifetime import close_at_exit, forget
from streams.stream import Stream

__all__ = ["AcceleratorDevice", "accelerator_type"]


def accelerator_type() -> str | None:
    """Return the kind of accelerator that torch can use here, ``"cuda"`` say, or None."""
    if not torch.accelerator.is_available():
        return None
    accelerator = torch.accelerator.current_accelerator()
    return None if accelerator is None else accelerator.type


class AcceleratorDevice(Device):
    """One accelerator.

    Launches run on native streams; ``close`` blocks until what was issued is done, so
    ``await drain()`` first.

    Args:
        kind: torch's name of the device type.
        index: which of them.
        issue: ``"inline"``: a launch's function runs before ``launch`` returns.
            ``"thread"``: on the device's issuer thread, with all other native calls, in
            the order in which they were asked for.
        timing: measure each launch by native timing events.

    Attributes:
        issue: as given.
        issuer: the issuer thread; None with ``"inline"``.
        native: makes native streams and events.
        changed: guards the queues and counters of all streams; notified when an operation
            was issued or is complete, a capture ended, or the device died.

    Raises:
        DeviceUnavailableError: there are not so many of this kind.
    """

    def __init__(self, kind: str, index: int, *, issue: IssueMode, timing: bool) -> None:
        if index >= (count := torch.accelerator.device_count()):
            raise DeviceUnavailableError(
                f"device '{kind}:{index}' is not available: torch finds {count} of this kind, "
                "numbered from 0"
            )
        platform = _platform(kind)
        super().__init__(
            f"{kind}:{index}",
            platform,
            Capabilities(
                private_d2h=platform is Platform.CUDA,
                pinned_memory=platform in (Platform.CUDA, Platform.ROCM, Platform.XPU),
                graph_capture=hasattr(torch.get_device_module(kind), "graph"),
                device_timing=timing,
            ),
            torch.device(kind, index),
        )
        native = CudaNative if kind == "cuda" else Native
        self.native: Native = native(self.torch_device, timing=timing)
        self.issue = issue
        self.changed = threading.Condition(threading.RLock())
        # Completed events, to be recorded again, on whichever stream.
        self._spare_events: list[torch.Event] = []
        self._capturer: int | None = None
        self.issuer = (
            Issuer(f"aio-sched-issue-{self.name}", self.lose) if issue == "thread" else None
        )
        close_at_exit(self)

    def spare_event(self) -> torch.Event:
        """Take a native event that nobody can still ask for its former record, or a new one."""
        try:
            return self._spare_events.pop()
        except IndexError:
            return self.native.new_event()

    def give_back(self, issued: Issued) -> None:
        """Let the events of a completed operation be recorded again, unless a thread has one.

        The caller holds ``changed``.
        """
        if issued.num_holders == 0:
            self._spare_events.append(issued.end)
        if issued.start is not None:
            self._spare_events.append(issued.start)

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Keep every poller away from the device while a graph capture is open.

        A query from any thread may break a capture; within this block completion
        counters stand still, and this thread puts no launches on streams: what it
        captures it calls directly. Open it around ``torch.cuda.graph`` and the like.
        Blocks until launches that were put before are issued.
        """
        if self.issuer is not None:
            self.issuer.flush()
        former, self._capturer = self._capturer, threading.get_ident()
        try:
            with super().capture():
                yield
        finally:
            with self.changed:
                self._capturer = former
                self.changed.notify_all()

    def check_not_capturing(self, what: str) -> None:
        """Raise if this thread has a graph capture open.

        Raises:
            CaptureOpenError: it has.
        """
        if self.is_capturing and self._capturer == threading.get_ident():
            raise CaptureOpenError(
                f"cannot {what} while this thread captures a graph on {self.name}: it would "
                "break the capture; do it before or after Device.capture()"
            )

    def _open_stream(self, name: str, priority: int) -> AcceleratorStream:
        return AcceleratorStream(self, name, priority)

    def _close_stream(self, stream: Stream) -> None:
        assert isinstance(stream, AcceleratorStream)
        if self.issuer is not None:
            self.issuer.flush()
        stream.finish()

    def _close(self) -> None:
        forget(self)
        if self.issuer is not None:
            self.issuer.stop()
        for stream in self.streams:
            assert isinstance(stream, AcceleratorStream)
            stream.finish()

    def _on_lost(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def disown(self) -> None:
        """In a forked child: the driver's context stayed in the parent."""
        self._closed_because = "the accelerator's context stayed in the parent of a fork"
        self.changed = threading.Condition(threading.RLock())


def _platform(kind: str) -> Platform:
    if kind == "cuda":
        return Platform.ROCM if torch.version.hip else Platform.CUDA
    return {"xpu": Platform.XPU, "mps": Platform.MPS}.get(kind, Platform.OTHER)
