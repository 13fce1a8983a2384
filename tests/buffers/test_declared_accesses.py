"""What buffers tell a hazard checker: their fences are seen, and so is each missing one."""

import pytest
import torch

from buffers.access import Access
from buffers.errors import RowNotWrittenError, StaleRowError
from buffers.keep_alive import KeepAlive
from buffers.relay import RelayBuffer
from buffers.row_ledger import RowLedger
from buffers.slots import SlotAllocator
from buffers.staging import StagingRing, _Block
from streams.device import Device
from streams.hazards import HazardChecker


def touch(*values: object) -> None:
    """A launch whose accesses are what it declares."""


def relay_on(device: Device, *, strict: bool = False) -> RelayBuffer:
    """Make a relay of one field."""
    return RelayBuffer(device, 4, {"tokens": torch.int64}, strict=strict)


async def use_relay(device: Device) -> HazardChecker:
    """Write rows on one stream, gather and pull them on others, write them again."""
    checker, relay = HazardChecker(), relay_on(device)
    schedule, forward = device.stream("schedule"), device.stream("forward")
    with checker.watch(device):
        for number in range(3):
            tokens = torch.tensor([number, number + 1])
            relay.publish([1, 2], tokens=tokens, stream=forward)
            gathered = relay.gather([2, 1], stream=schedule)
            pulled = relay.mirror.pull([1, 2], stream=forward)
            relay.stash([1], tokens=tokens[:1], stream=schedule)
        assert (await gathered)["tokens"].shape == (2,)
        assert (await pulled) is not None
        await device.drain()
    relay.close()
    return checker


async def test_relay_orders_its_own_launches(device: Device) -> None:
    """Publish, gather, pull and stash on three streams: all accesses are ordered."""
    checker = await use_relay(device)
    checker.raise_if_any()
    assert checker.num_accesses >= 20


@pytest.mark.parametrize(("books", "kinds"), [("users", {"WAR", "WAW"}), ("writers", {"RAW"})])
async def test_relay_without_its_fences_is_reported(
    device: Device, monkeypatch: pytest.MonkeyPatch, books: str, kinds: set[str]
) -> None:
    """Without the waits for former users of the rows each conflict is found."""
    monkeypatch.setattr(RowLedger, books, lambda self, refs: set())
    checker = await use_relay(device)
    assert {report.kind for report in checker.reports} >= kinds


async def test_relay_rows_that_strict_mode_refuses_are_reported(device: Device) -> None:
    """A read of poison and a stale generation are reports as well as errors."""
    checker, relay, slots = HazardChecker(), relay_on(device, strict=True), SlotAllocator(4)
    stream, former = device.stream("forward"), slots.take("first")
    with checker.watch(device):
        with pytest.raises(RowNotWrittenError):
            relay.gather([former], stream=stream)
        relay.stash([former], tokens=torch.tensor([1]), stream=stream)
        slots.give_back(former)
        with pytest.raises(StaleRowError):
            relay.gather([slots.take("second")], stream=stream)
    assert [report.kind for report in checker.reports] == ["poison", "stale"]


async def test_slot_given_back_under_a_launch_is_reported(device: Device) -> None:
    """To give a slot back is to let others write its rows."""
    checker, relay, slots = HazardChecker(), relay_on(device), SlotAllocator(4)
    relay.follow(slots)
    stream, keep_alive = device.stream("forward"), KeepAlive()
    good, bad = slots.take("good"), slots.take("bad")
    with checker.watch(device):
        written = relay.stash([good, bad], tokens=torch.tensor([1, 2]), stream=stream)
        assert written is not None
        slots.give_back(bad)
        with keep_alive.lease(good, slots.give_back) as lease:
            lease.use(written)
        await keep_alive.drained()
    (report,) = checker.reports
    assert (report.kind, report.where) == ("early_return", f"relay.tokens[{bad.index}]")
    assert report.later is not None
    assert report.later.label == "give_back"


@pytest.mark.parametrize("is_noted", [True, False])
async def test_lease_that_does_not_know_a_use_is_reported(device: Device, is_noted: bool) -> None:
    """A lease that covers memory is returned behind every use of it, or it is reported."""
    checker, pool = HazardChecker(), torch.zeros(4, 2)
    stream, keep_alive = device.stream("forward"), KeepAlive(device)
    page = Access("pool", "pages", (2,), pool)
    with checker.watch(device):
        with keep_alive.lease(2, touch, covers=[page]) as lease:
            written = stream.launch(touch, writes=[page])
            if is_noted:
                lease.use(written)
        await keep_alive.drained()
    assert [report.kind for report in checker.reports] == ([] if is_noted else ["early_return"])


@pytest.mark.parametrize("is_lost", [True, False])
async def test_release_after_the_end_of_the_device_is_no_finding(
    device: Device, is_lost: bool
) -> None:
    """Nobody can overwrite what a lost device may still read: it takes no more work."""
    checker, pool = HazardChecker(), torch.zeros(4, 2)
    keep_alive, stream = KeepAlive(device), device.stream("forward")
    with checker.watch(device):
        with keep_alive.lease(2, touch, covers=[pool]) as lease:
            lease.use(stream.launch(touch, writes=[pool]))
            if is_lost:
                device.lose(RuntimeError("a fault"))
            else:
                device.close()
        assert keep_alive.collect() == 1
    checker.raise_if_any()


def test_lease_that_covers_memory_needs_a_device() -> None:
    """Nobody would be told otherwise."""
    with pytest.raises(ValueError, match="make the KeepAlive with its device"):
        KeepAlive().lease(1, touch, covers=[torch.zeros(1)])


@pytest.mark.parametrize("is_fenced", [True, False])
async def test_staging_block_claimed_under_its_copy_is_reported(
    device: Device, monkeypatch: pytest.MonkeyPatch, is_fenced: bool
) -> None:
    """A ring that did not wait for its copies would rewrite what they read."""
    checker = HazardChecker()
    ring = StagingRing(device, (2,), torch.int64, depth=1)
    if not is_fenced:
        monkeypatch.setattr(_Block, "is_free", lambda self: not self.is_claimed)
    stream = device.stream("schedule")
    with checker.watch(device):
        ring.upload(stream, [1, 2])
        with await ring.slot() as slot:
            slot.host.fill_(3)
            await slot.upload(stream)
    assert [report.kind for report in checker.reports] == ([] if is_fenced else ["WAR"])
