"""Native streams and events, as torch has them, and streams that are truly distinct."""

import threading
from typing import cast

import torch

from streams.errors import StreamAliasError

__all__ = ["CudaNative", "Native"]

_MAX_REDRAWS = 64

# Guards _taken, which has the native handles of open streams by device: also two device objects
# for one accelerator must not share a handle.
_lock = threading.Lock()
_taken: dict[torch.device, set[int]] = {}


class Native:
    """``torch.Stream`` and ``torch.Event`` of one accelerator, of whatever kind.

    Args:
        device: with its index.
        timing: whether events carry a time.
    """

    def __init__(self, device: torch.device, *, timing: bool) -> None:
        self.device = device
        self.timing = timing

    def new_event(self) -> torch.Event:
        """Make an event that nothing recorded yet."""
        return torch.Event(self.device, enable_timing=self.timing)

    def new_stream(self, priority: int) -> torch.Stream:
        """Take the next stream of torch's pool, which may be in use already."""
        return torch.Stream(self.device, priority=priority)

    def handle(self, stream: torch.Stream) -> int:
        """Return what two streams share if they are one; 0 for the default stream."""
        return stream.stream_id

    def current_handle(self) -> int:
        """Return the handle of the stream that is current for torch on this thread."""
        return self.handle(torch.accelerator.current_stream(self.device))

    def draw(self, name: str, priority: int) -> torch.Stream:
        """Take a native stream that no open stream has, and that is not the default one.

        torch deals streams from a small pool in turn (CUDA: 32 for each priority). Two
        streams with one handle run one after the other, and so do launches on the
        default stream and its users: the overlap would be gone, and nothing would say so.
        (ROCm maps all streams onto a few hardware queues, which no handle tells.)

        Raises:
            StreamAliasError: every draw gave a stream in use.
        """
        not_ours = (0, self.current_handle())
        with _lock:
            taken = _taken.setdefault(self.device, set())
            for _ in range(1 + _MAX_REDRAWS):
                stream = self.new_stream(priority)
                handle = self.handle(stream)
                if handle not in taken and handle not in not_ours:
                    taken.add(handle)
                    return stream
        raise StreamAliasError(
            f"{1 + _MAX_REDRAWS} draws for stream {name!r} on {self.device} gave no native "
            f"stream that is free; {len(taken)} are open and torch deals them from a small "
            "pool (32 of each priority on CUDA): close some, or use another priority"
        )

    def give_back(self, stream: torch.Stream) -> None:
        """Let others have a stream that ``draw`` gave."""
        with _lock:
            _taken[self.device].discard(self.handle(stream))


class CudaNative(Native):
    """CUDA's and ROCm's own classes, which torch's generic ones extend."""

    def new_event(self) -> torch.Event:
        """Make an event whose ``synchronize`` sleeps.

        ``torch.Event(blocking=True)`` ignores the flag: on CUDA its ``synchronize`` spins, and
        a waiter thread would take a core. ``torch.cuda.Event`` passes the flag on.
        """
        event = torch.cuda.Event(enable_timing=self.timing, blocking=True)  # type: ignore[no-untyped-call]  # torch
        return cast(torch.Event, event)

    def new_stream(self, priority: int) -> torch.Stream:
        """Take the next stream of torch's pool, which may be in use already."""
        stream = torch.cuda.Stream(self.device, priority=priority)  # type: ignore[no-untyped-call]  # torch
        return cast(torch.Stream, stream)

    def handle(self, stream: torch.Stream) -> int:
        """Return the driver's own handle."""
        assert isinstance(stream, torch.cuda.Stream)
        return stream.cuda_stream

    def current_handle(self) -> int:
        """Return the handle of the stream that is current for torch on this thread."""
        return self.handle(torch.cuda.current_stream(self.device))
