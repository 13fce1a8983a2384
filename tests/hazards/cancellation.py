"""Waiters that are cancelled while the device still works for them."""

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import torch

from aio_sched.testing import Trial
from buffers.keep_alive import KeepAlive
from buffers.relay import RelayBuffer
from buffers.slots import SlotAllocator
from streams.device import Device
from streams.event import Event
from streams.simulated import Latch
from tests.hazards.miniature import FoundBy, Miniature

__all__ = ["MINIATURES"]


class Server:
    """Gives a request a slot, and works on its row for as long as ``busy`` says."""

    def __init__(self, device: Device) -> None:
        self.stream = device.stream("forward")
        self.slots = SlotAllocator(2)
        self.relay = RelayBuffer(device, 2, {"tokens": torch.int64}, needs_host_values=False)
        self.relay.follow(self.slots)
        self.keep_alive = KeepAlive(device)
        self.busy = Latch("busy")
        self.is_at_work = asyncio.Event()

    def work(self, slot: Any) -> Event:
        """Put a request's work on the device."""
        self.stream.launch(self.busy)
        self.relay.stash([slot], tokens=torch.ones(1, dtype=torch.int64), stream=self.stream)
        return self.stream.record("stashed")

    async def wait(self, stashed: Event) -> None:
        """Wait for a request's work."""
        self.is_at_work.set()
        await stashed

    async def give_back_in_finally(self) -> None:
        """The slot goes when the coroutine does."""
        slot = self.slots.take("request")
        try:
            await self.wait(self.work(slot))
        finally:
            self.slots.give_back(slot)

    async def give_back_behind_a_shield(self) -> None:
        """The coroutine stays until the device is done, unless a native cancel comes."""
        slot = self.slots.take("request")
        try:
            with anyio.CancelScope(shield=True):
                await self.wait(self.work(slot))
        finally:
            self.slots.give_back(slot)

    async def give_back_by_event(self) -> None:
        """The slot goes when the device has made its last use of it."""
        slot = self.slots.take("request")
        with self.keep_alive.lease(slot, self.slots.give_back) as lease:
            await self.wait(lease.use(self.work(slot)))

    async def end(self) -> int:
        """Let the device finish; return the slots that are free then."""
        self.busy.release()
        await self.stream.drained()
        await self.keep_alive.drained()
        return self.slots.num_free


async def cut_natively(server: Server, request: Callable[[], Any]) -> int:
    """Cancel a request as ``wait_for``, ``asyncio.timeout`` and ``Task.cancel`` do."""
    task = asyncio.create_task(request())
    await server.is_at_work.wait()
    task.cancel()
    await asyncio.wait([task])
    return await server.end()


async def cut_by_anyio(server: Server, request: Callable[[], Any]) -> int:
    """Cancel a request as a cancel scope does."""
    scope = anyio.CancelScope()

    async def scoped() -> None:
        with scope:
            await request()

    task = asyncio.create_task(scoped())
    await server.is_at_work.wait()
    scope.cancel()
    await asyncio.wait([task])
    return await server.end()


async def waiter_cancelled_natively_frees_in_finally(trial: Trial, is_fixed: bool) -> Any:
    """A disconnected client's ``finally`` gives the slot to the next one, mid-flight."""
    server = Server(trial.device)
    request = server.give_back_by_event if is_fixed else server.give_back_in_finally
    return await cut_natively(server, request)


async def waiter_cancelled_by_anyio_frees_in_finally(trial: Trial, is_fixed: bool) -> Any:
    """The same, cancelled by a scope."""
    server = Server(trial.device)
    request = server.give_back_by_event if is_fixed else server.give_back_in_finally
    return await cut_by_anyio(server, request)


async def native_cancel_cuts_through_a_shield(trial: Trial, is_fixed: bool) -> Any:
    """A shield holds against anyio only; ``Task.cancel`` returns early all the same."""
    server = Server(trial.device)
    request = server.give_back_by_event if is_fixed else server.give_back_behind_a_shield
    return await cut_natively(server, request)


_EARLY = r"relay.tokens\[1\].*give_back .*writes .*relay.stash .*\(forward\) writes.*stashed"

MINIATURES = (
    Miniature(
        "A1",
        FoundBy.ORDER,
        "early_return",
        _EARLY,
        waiter_cancelled_natively_frees_in_finally,
    ),
    Miniature(
        "A1",
        FoundBy.ORDER,
        "early_return",
        _EARLY,
        waiter_cancelled_by_anyio_frees_in_finally,
    ),
    Miniature(
        "A2",
        FoundBy.ORDER,
        "early_return",
        _EARLY,
        native_cancel_cuts_through_a_shield,
    ),
)
