"""Opening fake accelerators and their streams."""

from collections.abc import Iterator
from contextlib import contextmanager

from streams.accelerator import AcceleratorDevice
from streams.accelerator.stream import AcceleratorStream
from streams.device import Device, IssueMode
from tests.streams.fake_torch import FakeTorch

__all__ = ["handle_of", "opened", "stream_of"]


@contextmanager
def opened(fake: FakeTorch, issue: IssueMode = "inline") -> Iterator[AcceleratorDevice]:
    """Open the first fake accelerator; release holds and close it at the end."""
    with AcceleratorDevice("cuda", 0, issue=issue, timing=False) as device:
        yield device
        fake.release_holds()


def stream_of(device: Device, name: str, priority: int = 0) -> AcceleratorStream:
    """Open a stream."""
    stream = device.stream(name, priority)
    assert isinstance(stream, AcceleratorStream)
    return stream


def handle_of(stream: AcceleratorStream) -> int:
    """Return the native handle of a stream."""
    return stream.device.native.handle(stream.native)
