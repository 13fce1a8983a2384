"""Ranks that are tasks of one loop: what orders them for the default checker and a strict one."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import replace
from typing import Any

import pytest
import torch

from aio_sched.testing import virtual_run
from streams.device import Device, open_device
from streams.hazards import HazardChecker, arrive, depart, rank_scope
from streams.simulated import PROFILES
from tests.streams.hazards.shared_memory import Meeting

POLLED = replace(PROFILES["random"], name="polled", polled=True)


Ranked = Callable[[Device, torch.Tensor, int], Awaitable[None]]


def kinds_of(ranked: Ranked, *, strict: bool, profile: Any = "random") -> list[str]:
    """Run two ranks as tasks in virtual time, with a cell each and one stream each."""
    checker = HazardChecker(strict=strict)

    async def main() -> None:
        with open_device("sim", seed=1, profile=profile) as device, checker.watch(device):
            cell = torch.zeros(2)
            tasks = []
            for rank in range(2):
                with rank_scope(rank):
                    tasks.append(asyncio.create_task(told(ranked, device, cell, rank)))
            await asyncio.gather(*tasks)

    virtual_run(main(), observers=[checker.observer()] if strict else [])
    return [report.kind for report in checker.reports]


async def told(ranked: Ranked, device: Device, cell: torch.Tensor, rank: int) -> None:
    """As a function of its own, so that each rank's task is one of it."""
    await ranked(device, cell, rank)


def uses(device: Device, cell: torch.Tensor, *, is_write: bool) -> None:
    """Tell of a host access."""
    for monitor in device.monitors:
        monitor.on_host_access(device, cell, is_write=is_write)


async def own_events(device: Device, cell: torch.Tensor, rank: int) -> None:
    """Each rank awaits its own launches, polled by one poller that one of them has started."""
    stream, mine = device.stream(f"forward of {rank}"), torch.zeros(2)
    for _ in range(5):
        written = stream.launch(mine.fill_, 1, writes=[mine])
        await written
        uses(device, mine, is_write=True)
        stream.launch(mine.clone, reads=[mine])
        await stream.drained()
        uses(device, mine, is_write=True)


@pytest.mark.parametrize("strict", [False, True], ids=["default", "strict"])
@pytest.mark.parametrize("profile", ["random", POLLED], ids=["notifies", "polled"])
def test_event_reaches_the_rank_that_awaits_it(strict: bool, profile: Any) -> None:
    """Whoever looks at the device: what it finds is learned by who waits."""
    assert kinds_of(own_events, strict=strict, profile=profile) == []


async def by_luck(device: Device, cell: torch.Tensor, rank: int) -> None:
    """The second rank comes late; in tasks and callbacks of its own."""
    await asyncio.sleep(rank)
    done = asyncio.Event()

    def later() -> None:
        uses(device, cell, is_write=True)
        done.set()

    async def child() -> None:
        asyncio.get_running_loop().call_later(0.1, later)
        await done.wait()

    await asyncio.create_task(child())


@pytest.mark.parametrize("strict", [False, True], ids=["default", "strict"])
def test_tasks_and_callbacks_act_for_the_rank_that_made_them(strict: bool) -> None:
    """Both checkers see that time alone has put one rank behind the other."""
    assert kinds_of(by_luck, strict=strict) == ["WAW"]


@pytest.mark.parametrize("strict", [False, True], ids=["default", "strict"])
def test_tasks_that_meet_are_in_order(strict: bool) -> None:
    """A collective is a join in both: the first one to arrive is woken by nobody."""
    meeting = Meeting()

    async def meets(device: Device, cell: torch.Tensor, rank: int) -> None:
        await asyncio.sleep(rank)
        if rank == 1:
            uses(device, cell, is_write=True)
        arrive(meeting)
        await asyncio.sleep(5)  # the others' parts come by other ways than the loop's
        depart(meeting)
        if rank == 0:
            uses(device, cell, is_write=True)

    assert kinds_of(meets, strict=strict) == []


@pytest.mark.parametrize("reader", [0, 1])
def test_wake_up_by_way_of_the_outside_leads_back_only(reader: int) -> None:
    """A timer of the bridge, say: it wakes tasks of any rank, and one of them has set it."""
    woken = [asyncio.Event() for _ in range(2)]

    async def wakes(device: Device, cell: torch.Tensor, rank: int) -> None:
        async def reads() -> None:
            await woken[rank].wait()
            uses(device, cell, is_write=False)

        reading = asyncio.create_task(reads() if rank == reader else asyncio.sleep(0))
        if rank == 0:
            await asyncio.sleep(1)
            uses(device, cell, is_write=True)
            asyncio.get_running_loop().call_soon(woken[reader].set, context=Context())
        await reading

    assert kinds_of(wakes, strict=True) == ([] if reader == 0 else ["RAW"])
