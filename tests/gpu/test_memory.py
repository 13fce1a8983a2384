"""Memory that two streams use: allocator reuse, pinned copies, tables that are overwritten."""

import pytest
import torch

from streams.current import use_stream
from streams.device import Device
from streams.launch import Launch
from streams.stream import Stream
from tests.device_fixtures import Cells, HoldFactory
from tests.streams.conformance.work import copy_of, fill

pytestmark = pytest.mark.gpu

_SIZE = 1 << 20


def make(value: int) -> torch.Tensor:
    """Allocate a block on the current stream and fill it."""
    return torch.full((_SIZE,), value, dtype=torch.int32, device="cuda")


def extremes(block: torch.Tensor) -> torch.Tensor:
    """Return the least and the greatest value of a block, without waiting for it."""
    return torch.stack((block.min(), block.max()))


async def warm_up(*streams: Stream) -> None:
    """Load the kernels and fill the allocator's pools: both may wait for the whole device."""
    for stream in streams:
        blocks = [await stream.launch(make, 0) for _ in range(4)]
        for block in blocks:
            await stream.launch(extremes, await stream.launch(copy_of, block))
        del blocks, block


async def test_block_is_not_reused_while_another_stream_reads_it(
    device: Device, hold: HoldFactory
) -> None:
    """A value that its user dropped stays until its reader on another stream is done."""
    producer, consumer = device.stream("producer"), device.stream("consumer")
    await warm_up(producer, consumer)
    made = producer.launch(make, 1)
    held = hold(consumer)
    seen = consumer.launch(extremes, consumer.launch(copy_of, made))
    del made
    for value in range(2, 12):  # one of these would get the block, if it were free
        await producer.launch(make, value)
    held.release()
    assert (await seen).tolist() == [1, 1]


async def test_block_is_reused_too_early_without_the_launch(
    device: Device, hold: HoldFactory
) -> None:
    """The twin: memory that goes round the arguments is gone when its reader comes to it."""
    producer, consumer = device.stream("producer"), device.stream("consumer")
    await warm_up(producer, consumer)
    blocks: list[torch.Tensor] = []
    first = producer.launch(lambda: blocks.append(make(1)))
    await first
    address = blocks[0].data_ptr()
    held = hold(consumer)
    consumer.wait_event(first.event)
    copied = consumer.launch(lambda: copy_of(blocks.pop()))
    again = await producer.launch(make, 2)
    while blocks or again.data_ptr() != address:  # the issuer thread may not have come so far
        again = await producer.launch(make, 2)
    held.release()
    assert (await consumer.launch(extremes, copied)).tolist() == [2, 2]


async def test_cross_stream_values_survive_allocator_stress(device: Device) -> None:
    """Thousands of blocks made on one stream and read on two others keep their values."""
    producer = device.stream("producer")
    readers = [device.stream("left"), device.stream("right")]
    await warm_up(producer, *readers)
    pending: list[tuple[int, list[Launch[torch.Tensor]]]] = []
    wrong = []
    for value in range(3000):
        made = producer.launch(make, value)
        pending.append((value, [reader.launch(extremes, made) for reader in readers]))
        del made
        if len(pending) == 8:
            expected, launches = pending.pop(0)
            seen = [(await launch).tolist() for launch in launches]
            wrong += [pair for pair in seen if pair != [expected, expected]]
    await device.drain()
    assert wrong == []


async def test_pinned_copy_is_there_after_its_event_and_not_before(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """The host sees a device-to-host copy when ``copy_done`` is complete, and may not before."""
    copy = device.stream("copy")
    source, host = cells(7), torch.full((1,), -1, dtype=torch.int64).pin_memory()
    held = hold(copy)
    copy.launch(lambda: host.copy_(source, non_blocking=True))
    copy_done = copy.record("copy_done")
    assert host.tolist() == [-1]
    held.release()
    await copy_done
    assert host.tolist() == [7]


@pytest.mark.parametrize("is_fenced", [True, False])
async def test_overwrite_of_a_table_in_use_needs_the_fence(
    device: Device, hold: HoldFactory, cells: Cells, is_fenced: bool
) -> None:
    """WAR on real kernels: with the fence the reader sees the old table, without it the new."""
    reader, writer, table = device.stream("reader"), device.stream("writer"), cells(1)
    held = hold(reader)
    seen = reader.launch(copy_of, table)
    if is_fenced:
        # WAR: the writer reuses the table that the reader may still read.
        writer.wait_event(reader.record("shared_read_done"))
    written = writer.launch(fill, table, 2)
    if not is_fenced:
        await written
    assert not seen.query()
    held.release()
    assert (await seen).tolist() == ([1] if is_fenced else [2])
    await written
    assert table.tolist() == [2]


@pytest.mark.parametrize("is_fenced", [True, False])
async def test_read_of_another_streams_write_needs_the_wait(
    device: Device, hold: HoldFactory, cells: Cells, is_fenced: bool
) -> None:
    """RAW on real kernels: with the wait the reader sees what was written, else it is early."""
    writer, reader, table = device.stream("writer"), device.stream("reader"), cells(1)
    held = hold(writer)
    written = writer.launch(fill, table, 2)
    if is_fenced:
        # RAW: the reader reads the table that the writer fills.
        reader.wait_event(written.event)
    seen = reader.launch(copy_of, table)
    if not is_fenced:
        await seen
    assert not written.query()
    held.release()
    assert (await seen).tolist() == ([2] if is_fenced else [1])
    await written


async def test_plain_torch_calls_are_ordered_like_launches(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """Torch calls while a stream is current come behind its waits, and its record covers them."""
    blocker, writer, reader = (device.stream(name) for name in ("blocker", "writer", "reader"))
    if getattr(device, "issuer", None) is not None:
        pytest.skip("with an issuer thread, plain calls overtake launches: they are documented so")
    table = cells(1)
    held = hold(blocker)
    before = writer.launch(copy_of, table)
    writer.wait_event(held.launch.event)
    with use_stream(writer):
        table.fill_(2)
    reader.wait_stream(writer)
    after = reader.launch(copy_of, table)
    assert (await before).tolist() == [1]
    assert not after.query()
    held.release()
    assert (await after).tolist() == [2]
