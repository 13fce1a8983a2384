"""Real native streams and events: what torch deals, and what they do."""

import pytest
import torch

from streams.accelerator.stream import AcceleratorStream
from streams.device import Device
from streams.errors import StreamAliasError
from tests.device_fixtures import HoldFactory
from tests.streams.conformance.work import nothing

pytestmark = pytest.mark.gpu


def handles_of(device: Device) -> list[int]:
    """Return the driver's handles of a device's open streams."""
    streams = [s for s in device.streams if isinstance(s, AcceleratorStream)]
    return [stream.device.native.handle(stream.native) for stream in streams]


def test_64_streams_are_distinct_or_refused(device: Device) -> None:
    """Two priorities fill two pools; no two handles are equal, none is the default stream."""
    refused = 0
    for index in range(64):
        try:
            device.stream(f"s{index}", priority=-(index % 2))
        except StreamAliasError:
            refused += 1
    handles = handles_of(device)
    assert len(set(handles)) == len(handles) == 64 - refused
    assert 0 not in handles
    assert len(handles) >= 32


def test_torch_alone_deals_aliases() -> None:
    """The reason for drawing again: 64 plain torch streams share handles."""
    handles = {torch.cuda.Stream().cuda_stream for _ in range(64)}  # type: ignore[no-untyped-call]  # torch
    assert len(handles) < 64


def test_unrecorded_native_event_is_complete() -> None:
    """The reason for refusing events that nothing recorded: torch calls them complete."""
    assert torch.cuda.Event().query()  # type: ignore[no-untyped-call]  # torch leaves it untyped


async def test_native_events_are_used_again(device: Device) -> None:
    """A long run with a waiter at every step makes few native events."""
    stream, other = device.stream("s"), device.stream("other")
    for _ in range(300):
        await other.launch(nothing, stream.launch(nothing))
    assert isinstance(stream, AcceleratorStream)
    assert len(stream.device._spare_events) < 40


async def test_dropped_event_still_holds_its_waiter_back(device: Device, hold: HoldFactory) -> None:
    """A device-side wait outlives every Python object that it came from."""
    one, two = device.stream("one"), device.stream("two")
    held = hold(one)
    event = one.record("dropped")
    two.wait_event(event)
    del event
    behind = two.launch(nothing)
    for _ in range(50):
        await one.device.stream(f"churn{_}").launch(nothing)
        one.device.streams[-1].close()
    assert not behind.query()
    held.release()
    await behind
