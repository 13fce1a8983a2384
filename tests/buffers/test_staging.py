"""``StagingRing``: host memory that is not rewritten while a copy reads it."""

import asyncio
import contextlib
from typing import Any

import pytest
import torch

from buffers.errors import DtypeError, ShapeError, StagingBusyError, StagingReleasedError
from buffers.staging import StagingRing
from streams.device import Device
from streams.errors import DeviceLostError
from tests.buffers.conftest import Cpu
from tests.device_fixtures import HoldFactory


async def test_upload_gives_the_values_on_the_device(device: Device) -> None:
    """Tensors and plain sequences arrive, also shorter ones than the ring holds."""
    ring, stream = StagingRing(device, (3,), torch.int64), device.stream("schedule")
    first = await ring.upload(stream, [1, 2, 3])
    second = await ring.upload(stream, torch.tensor([4, 5]))
    assert first.device.type == device.torch_device.type
    assert (first.tolist(), second.tolist()) == ([1, 2, 3], [4, 5])


async def test_number_is_staged_by_ring_without_dimensions(device: Device) -> None:
    """A single number has no rows."""
    ring, stream = StagingRing(device, (), torch.float32), device.stream("schedule")
    assert (await ring.upload(stream, torch.tensor(0.5))).item() == 0.5


async def test_caller_may_change_values_at_once(device: Device, hold: HoldFactory) -> None:
    """What is uploaded was read before ``upload`` returned."""
    ring, stream = StagingRing(device, (2,), torch.int64), device.stream("schedule")
    held = hold(stream)
    values = torch.tensor([1, 2])
    launch = ring.upload(stream, values)
    values.fill_(9)
    held.release()
    assert (await launch).tolist() == [1, 2]


async def test_block_is_not_rewritten_under_a_copy(device: Device, hold: HoldFactory) -> None:
    """With all copies held back a further upload is refused, and none is overwritten."""
    ring, stream = StagingRing(device, (1,), torch.int64, depth=2), device.stream("schedule")
    held = hold(stream)
    launches = [ring.upload(stream, [1]), ring.upload(stream, [2])]
    assert ring.num_free == 0
    with pytest.raises(
        StagingBusyError, match=r"all 2 blocks of ring 'staging' are claimed or being copied from; "
    ):
        ring.upload(stream, [3])
    held.release()
    assert [(await launch).tolist() for launch in launches] == [[1], [2]]
    assert ring.num_free == 2
    assert (await ring.upload(stream, [3])).tolist() == [3]


async def test_slot_suspends_until_a_copy_is_done(device: Device, hold: HoldFactory) -> None:
    """The prepare stage waits for a block while the loop goes on."""
    ring, stream = StagingRing(device, (1,), torch.int64, depth=1), device.stream("schedule")
    held = hold(stream)
    first = ring.upload(stream, [1])
    claiming = asyncio.create_task(ring.slot())
    await asyncio.sleep(0)
    assert not claiming.done()
    held.release()
    with await claiming as slot:
        slot.host.fill_(2)
        second = slot.upload(stream)
    assert [(await first).tolist(), (await second).tolist()] == [[1], [2]]


async def test_cancelled_upload_keeps_its_block_until_the_copy_is_done(
    device: Device, hold: HoldFactory
) -> None:
    """A stage that is cancelled behind its upload leaves the block to the device."""
    ring, stream = StagingRing(device, (1,), torch.int64, depth=1), device.stream("schedule")
    held = hold(stream)
    is_enqueued = asyncio.Event()

    async def prepare() -> None:
        with await ring.slot() as slot:
            slot.host.fill_(1)
            upload = slot.upload(stream)
            is_enqueued.set()
            await upload

    preparing = asyncio.create_task(prepare())
    await is_enqueued.wait()
    preparing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await preparing
    assert ring.num_free == 0
    held.release()
    await stream.drained()
    assert ring.num_free == 1


async def test_failed_copy_frees_its_block_for_others(cpu: Cpu) -> None:
    """Who waits for a block does not get the error of the copy that had it."""
    ring, stream = StagingRing(cpu.device, (1,), torch.int64, depth=1), cpu.device.stream("s")
    held = cpu.hold(stream)
    cpu.device.torch_device = torch.device("cuda:7")  # where no copy can go to
    failed = ring.upload(stream, [1])
    claiming = asyncio.create_task(ring.slot())
    await asyncio.sleep(0)
    held.release()
    (await claiming).give_back()
    with pytest.raises((RuntimeError, AssertionError)):
        await failed


async def test_slot_not_uploaded_comes_back_with_the_block(device: Device) -> None:
    """Leaving the with block, by an error too, gives an unused slot back."""
    ring = StagingRing(device, (1,), torch.int64, depth=1)
    with pytest.raises(KeyError), ring.take():
        assert ring.num_free == 0
        raise KeyError("nothing to upload")
    assert ring.num_free == 1


async def test_claims_that_nobody_uploads_are_not_waited_for(device: Device) -> None:
    """Waiting for a block that only the waiter itself can free would never end."""
    ring = StagingRing(device, (1,), torch.int64, depth=1)
    async with asyncio.timeout(10):
        with (
            await ring.slot(),
            pytest.raises(StagingBusyError, match="none is being copied from; upload them"),
        ):
            await ring.slot()


async def test_slot_is_unusable_after_upload(device: Device) -> None:
    """Writing on would race with the copy."""
    ring, stream = StagingRing(device, (1,), torch.int64), device.stream("schedule")
    slot = ring.take()
    slot.host.fill_(1)
    await slot.upload(stream)
    for misuse in (lambda: slot.host, lambda: slot.upload(stream)):
        with pytest.raises(StagingReleasedError, match="claim another with slot"):
            misuse()
    slot.give_back()  # does no harm
    assert repr(slot) == "<StagingSlot of 'staging' released>"


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1, 2, 3], ShapeError, r"stages up to \(2,\) and got \(3,\); split the upload"),
        ([[1]], ShapeError, r"got \(1, 1\)"),
        (torch.ones(2), DtypeError, r"stages torch.int64 and got torch.float32; convert"),
        (torch.ones(2, dtype=torch.int64, device="meta"), ShapeError, "a tensor on meta"),
        (["one"], DtypeError, r"got \['one'\]: .*; give numbers of that type"),
        ([2**63], DtypeError, r"got \[9223372036854775808\]"),
        ([[1], [2, 3]], DtypeError, "in rows of one length"),
    ],
)
async def test_values_that_do_not_fit_are_refused(
    device: Device, values: Any, error: type[Exception], message: str
) -> None:
    """The error says what fits, and the block is free again."""
    ring, stream = StagingRing(device, (2,), torch.int64, depth=1), device.stream("schedule")
    with pytest.raises(error, match=message):
        ring.upload(stream, values)
    assert (await ring.upload(stream, [5])).tolist() == [5]


async def test_upload_of_more_rows_than_the_block_has_is_refused(device: Device) -> None:
    """A slot is uploaded whole, or some rows from its start."""
    ring, stream = StagingRing(device, (2,), torch.int64), device.stream("schedule")
    with ring.take() as slot:
        slot.host.fill_(7)
        with pytest.raises(ShapeError, match="num_rows=3 of a staging block that has 2"):
            slot.upload(stream, 3)
        assert (await slot.upload(stream, 1)).tolist() == [7]


@pytest.mark.parametrize(
    ("shape", "depth", "error", "message"),
    [((2,), 0, ValueError, "depth=0"), ((2, 0), 1, ShapeError, r"shape \(2, 0\)")],
)
def test_ring_of_nothing_is_refused(
    device: Device, shape: tuple[int, ...], depth: int, error: type[Exception], message: str
) -> None:
    """A ring needs a block, and a block an element."""
    with pytest.raises(error, match=message):
        StagingRing(device, shape, torch.int64, depth=depth)


async def test_lost_device_is_told_to_who_waits_for_a_block(cpu: Cpu) -> None:
    """No block of a lost device comes back."""
    ring, stream = StagingRing(cpu.device, (1,), torch.int64, depth=1), cpu.device.stream("s")
    cpu.hold(stream)
    ring.upload(stream, [1])
    claiming = asyncio.create_task(ring.slot())
    await asyncio.sleep(0)
    cpu.device.lose(RuntimeError("ECC error"))
    with pytest.raises(DeviceLostError):
        await claiming
    assert repr(ring) == "<StagingRing 'staging': 1 blocks of (1,) torch.int64, 0 claimed>"
