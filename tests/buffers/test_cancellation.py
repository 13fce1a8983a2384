"""A cancelled step, and the slot that the device is still using.

Each test cancels a step whose forward is on the device, lets the next request take
the slot and write its row, and only then lets the forward read the row.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
import torch
from torch import Tensor

from buffers.errors import SlotsExhaustedError
from buffers.keep_alive import KeepAlive
from buffers.slots import Slot, SlotAllocator
from streams.launch import Launch
from streams.stream import Stream
from tests.buffers.conftest import Cpu


@dataclass
class Engine:
    """One slot, one row, and a forward that reads the row late."""

    forward_stream: Stream
    schedule_stream: Stream
    allocator: SlotAllocator = field(default_factory=lambda: SlotAllocator(1))
    keep_alive: KeepAlive = field(default_factory=KeepAlive)
    rows: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64))
    forwards: list[Launch[int]] = field(default_factory=list)
    has_launched: asyncio.Event = field(default_factory=asyncio.Event)

    def launch(self, slot: Slot, value: int) -> Launch[int]:
        """Write the row as prepare does, and put a forward that reads it on the device."""
        prepared = self.schedule_stream.launch(self.rows[slot.index].fill_, value)
        self.forward_stream.wait_event(prepared.event)
        self.forwards.append(self.forward_stream.launch(lambda: int(self.rows[slot.index])))
        self.has_launched.set()
        return self.forwards[-1]


async def freed_in_finally(engine: Engine) -> None:
    """The wrong way: the slot goes back when the coroutine ends."""
    slot = engine.allocator.take("a")
    try:
        await engine.launch(slot, 1)
    finally:
        engine.allocator.give_back(slot)


async def freed_behind_shield(engine: Engine) -> None:
    """The wrong way that looks right: wait for the device under a shield, then free."""
    slot = engine.allocator.take("a")
    try:
        with anyio.CancelScope(shield=True):
            await engine.launch(slot, 1)
    finally:
        engine.allocator.give_back(slot)


async def leased(engine: Engine) -> None:
    """Ours: the block gives up the claim, the device returns the slot."""
    with engine.keep_alive.lease(engine.allocator.take("a"), engine.allocator.give_back) as lease:
        await lease.use(engine.launch(lease.thing, 1))


Way = Callable[[Engine], Coroutine[Any, Any, None]]


async def cancel_by_anyio(step: Coroutine[Any, Any, None], has_launched: asyncio.Event) -> None:
    """Cancel the scope in which the step runs."""
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await step

        group.start_soon(run)
        await has_launched.wait()
        group.cancel_scope.cancel()


async def cancel_natively(step: Coroutine[Any, Any, None], has_launched: asyncio.Event) -> None:
    """Call ``Task.cancel``, as ``asyncio.wait_for`` and every server does."""
    task = asyncio.create_task(step)
    await has_launched.wait()
    task.cancel()
    await asyncio.wait([task])


Cancel = Callable[[Coroutine[Any, Any, None], asyncio.Event], Coroutine[Any, Any, None]]


async def value_read_by_cancelled_step(cpu: Cpu, way: Way, cancel: Cancel) -> int:
    """Cancel a step in flight, give its slot on as soon as it is free, and look."""
    engine = Engine(cpu.device.stream("forward"), cpu.device.stream("schedule"))
    held = cpu.hold(engine.forward_stream)
    cancelling = asyncio.create_task(cancel(way(engine), engine.has_launched))
    for _ in range(20):  # turns of the loop, enough for either cancellation to be delivered
        await asyncio.sleep(0)
    engine.keep_alive.collect()
    try:
        next_slot = engine.allocator.take("b")
    except SlotsExhaustedError:
        pass  # the slot is held, so there is no next owner yet
    else:
        await engine.schedule_stream.launch(engine.rows[next_slot.index].fill_, 2)
        engine.allocator.give_back(next_slot)
    held.release()
    await cancelling
    value = await engine.forwards[0]
    engine.keep_alive.collect()
    assert engine.allocator.num_free == 1
    return value


@pytest.mark.parametrize("cancel", [cancel_by_anyio, cancel_natively])
async def test_slot_freed_in_finally_is_overwritten_under_the_device(
    cpu: Cpu, cancel: Cancel
) -> None:
    """What the lease is for: both kinds of cancellation hand the row on too early."""
    assert await value_read_by_cancelled_step(cpu, freed_in_finally, cancel) == 2


@pytest.mark.parametrize(("cancel", "value"), [(cancel_by_anyio, 1), (cancel_natively, 2)])
async def test_slot_freed_behind_shield_is_overwritten_after_native_cancel(
    cpu: Cpu, cancel: Cancel, value: int
) -> None:
    """An anyio shield holds against anyio, and ``Task.cancel`` cuts through it."""
    assert await value_read_by_cancelled_step(cpu, freed_behind_shield, cancel) == value


@pytest.mark.parametrize("cancel", [cancel_by_anyio, cancel_natively])
async def test_leased_slot_outlives_cancelled_step(cpu: Cpu, cancel: Cancel) -> None:
    """The next owner gets the row when the device is done with it, however the step ended."""
    assert await value_read_by_cancelled_step(cpu, leased, cancel) == 1
