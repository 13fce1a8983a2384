"""``KeepAlive``: what the device uses is returned by completion."""

import asyncio
import threading
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch

from buffers.errors import LeaseClosedError
from buffers.keep_alive import KeepAlive
from buffers.slots import Slot, SlotAllocator
from streams.device import Device
from streams.errors import DeadlineError, EventNotRecordedError
from streams.event import Event
from tests.buffers.conftest import Cpu
from tests.device_fixtures import HoldFactory


async def test_held_object_lives_until_its_event(device: Device, hold: HoldFactory) -> None:
    """The last reference is dropped after the device has passed the event, not before."""
    stream = device.stream("forward")
    keep_alive = KeepAlive()
    workspace = torch.ones(4)
    is_alive = weakref.ref(workspace)
    held = hold(stream)
    keep_alive.hold(stream.record(), workspace)
    del workspace
    assert keep_alive.collect() == 0
    assert is_alive() is not None
    held.release()
    await held.launch
    assert is_alive() is not None  # released by collect, and at no other time
    assert keep_alive.collect() == 1
    assert is_alive() is None
    assert len(keep_alive) == 0


async def test_release_comes_in_order_of_the_stream(device: Device, hold: HoldFactory) -> None:
    """Callbacks run in the order of their events, equal ones in the order of the calls."""
    stream = device.stream("forward")
    keep_alive = KeepAlive()
    released: list[str] = []
    first = hold(stream)
    early, second = stream.record(), hold(stream)
    late = stream.record()
    for event, name in ((late, "c"), (early, "a"), (late, "d"), (early, "b")):
        keep_alive.release_at(event, partial(released.append, name))
    first.release()
    await early
    keep_alive.collect()
    assert released == ["a", "b"]
    second.release()
    await late
    keep_alive.collect()
    assert released == ["a", "b", "c", "d"]


async def test_lease_returns_slot_when_its_last_use_is_complete(
    device: Device, hold: HoldFactory
) -> None:
    """Leaving the block gives up the claim; the slot is free after the device is done."""
    stream, allocator, keep_alive = device.stream("forward"), SlotAllocator(1), KeepAlive()
    with keep_alive.lease(allocator.take("a"), allocator.give_back) as lease:
        held = hold(stream)
        lease.use(held.launch)
        assert keep_alive.num_claimed == 1
    assert keep_alive.num_claimed == 0
    assert keep_alive.collect() == 0
    assert allocator.num_free == 0
    held.release()
    await held.launch
    keep_alive.collect()
    assert allocator.num_free == 1


async def test_lease_used_on_two_streams_waits_for_both(device: Device, hold: HoldFactory) -> None:
    """The thing comes back after the later of its uses, whichever that is."""
    streams = device.stream("forward"), device.stream("copy")
    for first, last in ((0, 1), (1, 0)):
        keep_alive = KeepAlive()
        returned: list[str] = []
        holds = [hold(stream) for stream in streams]
        with keep_alive.lease("page", returned.append) as lease:
            for stream, held in zip(streams, holds, strict=True):
                lease.use(held.launch)
                lease.use(stream.record())
        holds[first].release()
        await holds[first].launch
        keep_alive.collect()
        assert returned == []
        holds[last].release()
        await holds[last].launch
        keep_alive.collect()
        assert returned == ["page"]


def test_lease_keeps_the_later_of_two_uses(device: Device, hold: HoldFactory) -> None:
    """Uses may be noted in any order; the last on the stream counts."""
    stream, keep_alive = device.stream("forward"), KeepAlive()
    returned: list[str] = []
    early = stream.record()
    held = hold(stream)
    with keep_alive.lease("page", returned.append) as lease:
        lease.use(held.launch)
        lease.use(early)
    keep_alive.collect()
    assert returned == []
    held.release()


def test_lease_without_use_returns_at_once() -> None:
    """What no launch ever used need not wait for the device."""
    allocator, keep_alive = SlotAllocator(1), KeepAlive()
    with keep_alive.lease(allocator.take("a"), allocator.give_back) as lease:
        assert isinstance(lease.thing, Slot)
        assert allocator.num_free == 0
    assert allocator.num_free == 1
    lease.close()  # a second time does no harm
    assert (keep_alive.num_claimed, len(keep_alive)) == (0, 0)


def test_use_of_closed_lease_is_an_error(device: Device) -> None:
    """A use that comes after the claim was given up could be anybody's memory."""
    keep_alive = KeepAlive()
    with keep_alive.lease("page 7", lambda page: None) as lease:
        pass
    with pytest.raises(LeaseClosedError, match="the lease on 'page 7' was given up"):
        lease.use(device.stream("forward").record())


@pytest.mark.parametrize("verb", ["hold", "release_at", "use"])
def test_unrecorded_event_is_refused(verb: str) -> None:
    """An event that nothing recorded ends no use."""
    keep_alive = KeepAlive()
    with keep_alive.lease("page", lambda page: None) as lease:
        verbs: dict[str, Callable[[], object]] = {
            "hold": lambda: keep_alive.hold(Event("copy_done"), object()),
            "release_at": lambda: keep_alive.release_at(Event("copy_done"), lambda: None),
            "use": lambda: lease.use(Event("copy_done")),
        }
        with pytest.raises(EventNotRecordedError, match="copy_done"):
            verbs[verb]()
    assert len(keep_alive) == 0


async def test_failed_launch_releases_what_it_used(device: Device) -> None:
    """A launch that raised has left the device like any other."""
    stream, allocator, keep_alive = device.stream("forward"), SlotAllocator(1), KeepAlive()

    def broken() -> None:
        raise ValueError("bad kernel")

    with (
        pytest.raises(ValueError, match="bad kernel"),
        keep_alive.lease(allocator.take("a"), allocator.give_back) as lease,
    ):
        await lease.use(stream.launch(broken))
    keep_alive.collect()
    assert allocator.num_free == 1


async def test_drained_waits_for_every_stream(device: Device, hold: HoldFactory) -> None:
    """``drained`` ends when everything was released, also what was added meanwhile."""
    forward, copy, keep_alive = device.stream("forward"), device.stream("copy"), KeepAlive()
    released: list[str] = []
    holds = [hold(forward), hold(copy)]
    keep_alive.release_at(holds[0].launch.event, lambda: released.append("forward"))
    keep_alive.release_at(holds[1].launch.event, lambda: released.append("copy"))
    draining = asyncio.create_task(keep_alive.drained(30.0))
    await asyncio.sleep(0)
    holds.append(hold(copy))
    keep_alive.release_at(holds[2].launch.event, lambda: released.append("later"))
    for held in holds:
        assert not draining.done()
        held.release()
        await held.launch
    await draining
    assert sorted(released) == ["copy", "forward", "later"]
    assert len(keep_alive) == 0


async def test_drained_that_runs_out_of_time_says_what_is_in_use(
    device: Device, hold: HoldFactory
) -> None:
    """The deadline names the event, and leaves everything held."""
    stream, keep_alive = device.stream("forward"), KeepAlive()
    held = hold(stream)
    keep_alive.hold(stream.record("step 7 done"), object())
    with pytest.raises(DeadlineError, match="step 7 done"):
        await keep_alive.drained(0.0)
    assert len(keep_alive) == 1
    held.release()
    await keep_alive.drained()


async def test_cancelled_drained_releases_nothing_early(device: Device, hold: HoldFactory) -> None:
    """Cancelling who waits for the device does not end its uses."""
    stream, keep_alive = device.stream("forward"), KeepAlive()
    held = hold(stream)
    keep_alive.hold(held.launch.event, object())
    draining = asyncio.create_task(keep_alive.drained())
    await asyncio.sleep(0)
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    assert len(keep_alive) == 1
    held.release()


async def test_lost_device_releases_everything(cpu: Cpu) -> None:
    """Nothing can be put on a lost device, so nobody can overwrite what it read last."""
    stream, allocator, keep_alive = cpu.device.stream("forward"), SlotAllocator(1), KeepAlive()
    with keep_alive.lease(allocator.take("a"), allocator.give_back) as lease:
        lease.use(cpu.hold(stream).launch)
    keep_alive.hold(stream.record(), object())
    assert keep_alive.collect() == 0
    cpu.device.lose(RuntimeError("ECC error"))
    await keep_alive.drained()
    assert (allocator.num_free, len(keep_alive)) == (1, 0)


def test_closed_device_releases_everything(cpu: Cpu) -> None:
    """What was queued on a closed device never starts."""
    stream, keep_alive = cpu.device.stream("forward"), KeepAlive()
    gate = threading.Event()

    def until_closed() -> None:
        while not cpu.device.is_closed:
            gate.wait(0.001)

    stream.launch(until_closed)
    keep_alive.hold(stream.launch(gate.set).event, object())
    cpu.device.close()
    assert not gate.is_set()
    assert keep_alive.collect() == 1


def test_release_that_raises_is_reported_and_the_others_run(device: Device) -> None:
    """A broken callback keeps nobody else's memory, and its error is not swallowed."""
    keep_alive, event = KeepAlive(), device.stream("forward").record()
    released: list[str] = []

    def broken() -> None:
        raise ValueError("not mine")

    keep_alive.release_at(event, broken)
    keep_alive.release_at(event, lambda: released.append("slot"))
    with pytest.raises(ValueError, match="not mine"):
        keep_alive.collect()
    assert (released, len(keep_alive)) == (["slot"], 0)
    for _ in range(2):
        keep_alive.release_at(event, broken)
    with pytest.raises(ExceptionGroup, match="2 releases failed"):
        keep_alive.collect()


def test_release_may_hold_again(device: Device) -> None:
    """A callback that starts another use from within ``collect`` is safe."""
    keep_alive, stream = KeepAlive(), device.stream("forward")
    other = device.stream("copy")
    event = stream.record()
    released: list[str] = []
    keep_alive.release_at(event, lambda: keep_alive.release_at(event, lambda: released.append("b")))
    keep_alive.release_at(
        event, lambda: keep_alive.release_at(other.record(), lambda: released.append("c"))
    )
    while len(keep_alive):
        keep_alive.collect()
    assert released == ["b", "c"]


def test_repr_counts_what_is_held_and_claimed(device: Device, hold: HoldFactory) -> None:
    """The two numbers that tell a leak."""
    keep_alive = KeepAlive()
    held = hold(device.stream("forward"))
    keep_alive.hold(held.launch.event, object())
    with keep_alive.lease("page", lambda page: None):
        assert repr(keep_alive) == "<KeepAlive 1 held, 1 claimed>"
    held.release()
