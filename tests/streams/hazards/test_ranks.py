"""Ranks that share a process: what orders them, and what does not."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from contextvars import Context
from dataclasses import replace
from typing import Any

import pytest
import torch

from aio_sched.testing import virtual_run
from streams.device import Device, open_device
from streams.hazards import HazardChecker, arrive, depart, handoff, rank_scope
from streams.launch import Launch
from streams.simulated import PROFILES
from tests.streams.hazards.launches import launch
from tests.streams.hazards.lazy_device import LazyDevice

POLLED = replace(PROFILES["random"], name="polled", polled=True)


class Meeting:
    """Where ranks meet once."""


class Shared:
    """Memory that ranks of one process use, and the checker that is told."""

    def __init__(self, num_cells: int = 1) -> None:
        self.checker = HazardChecker()
        self.device = LazyDevice()
        self.device.add_monitor(self.checker)
        self.cells = [torch.zeros(2) for _ in range(num_cells)]

    def write(self, rank: int | None, cell: int = 0) -> None:
        """Let the host write for a rank, or for none."""
        self._access(rank, cell, is_write=True)

    def read(self, rank: int | None, cell: int = 0) -> None:
        """Let the host read."""
        self._access(rank, cell, is_write=False)

    def launch(self, rank: int | None, **accesses: Any) -> Launch[None]:
        """Launch on a stream of the rank's own."""
        with acts(rank):
            name = f"forward of {rank}"
            known = {stream.name: stream for stream in self.device.streams}
            return launch(known.get(name) or self.device.stream(name), 1, "forward", **accesses)

    @property
    def found(self) -> list[tuple[str, str, str]]:
        """Kind, earlier and later actor of each report."""
        return [
            (report.kind, report.earlier.actor, report.later.actor)
            for report in self.checker.reports
            if report.earlier is not None and report.later is not None
        ]

    def _access(self, rank: int | None, cell: int, *, is_write: bool) -> None:
        with acts(rank):
            self.checker.on_host_access(self.device, self.cells[cell], is_write=is_write)


def acts(rank: int | None) -> Any:
    """Act for a rank, or for none."""
    return nullcontext() if rank is None else rank_scope(rank)


def call(do: Callable[[object], None], rank: int | None, obj: object) -> None:
    """Arrive, depart or hand off as a rank."""
    with acts(rank):
        do(obj)


def test_two_ranks_need_a_collective() -> None:
    """What the loop ran first on one rank may come last where ranks are processes."""
    shared = Shared()
    shared.write(0)
    shared.read(1)
    (report,) = shared.checker.reports
    assert shared.found == [("RAW", "rank 0", "rank 1")]
    assert report.missing == "rank 0 -> rank 1 (a collective or handoff between them)"


def test_collective_orders_each_rank_behind_all() -> None:
    """Also the rank that came first, behind those that came later."""
    shared, meeting = Shared(3), Meeting()
    for rank in range(3):
        shared.write(rank, cell=rank)
        call(arrive, rank, meeting)
    for rank in range(3):
        call(depart, rank, meeting)
        for cell in range(3):
            shared.read(rank, cell)
    assert shared.found == []
    shared.write(0, cell=1)  # who reads after the collective is not before what comes after it
    assert shared.found == [("WAR", "rank 1", "rank 0"), ("WAR", "rank 2", "rank 0")]


def test_handoff_orders_ranks_behind_those_before_only() -> None:
    """A queue between two ranks is no collective: it leads one way."""
    shared, thing = Shared(2), Meeting()
    for rank in range(2):
        shared.write(rank, cell=rank)
        call(handoff, rank, thing)
    shared.read(1, cell=0)
    assert shared.found == []
    shared.read(0, cell=1)
    assert shared.found == [("RAW", "rank 1", "rank 0")]


def test_who_gives_up_a_collective_is_behind_nobody() -> None:
    """To arrive is to give; only who departs has the others' part."""
    shared, meeting = Shared(), Meeting()
    shared.write(0)
    call(arrive, 0, meeting)
    call(arrive, 1, meeting)
    shared.read(1)
    assert shared.found == [("RAW", "rank 0", "rank 1")]


def test_what_comes_after_arriving_is_not_brought() -> None:
    """The others may have gone on by then."""
    shared, meeting = Shared(), Meeting()
    call(arrive, 0, meeting)
    shared.write(0)
    call(arrive, 1, meeting)
    call(depart, 1, meeting)
    shared.read(1)
    assert shared.found == [("RAW", "rank 0", "rank 1")]


def test_other_meetings_order_nothing() -> None:
    """A rank that skips an exchange meets the others at the wrong one."""
    shared = Shared()
    shared.write(0)
    for rank in range(2):
        meeting = Meeting()
        call(arrive, rank, meeting)
        call(depart, rank, meeting)
    shared.read(1)
    assert shared.found == [("RAW", "rank 0", "rank 1")]


def test_launches_come_after_their_rank() -> None:
    """And after no other one, whose event they must wait for."""
    shared = Shared()
    (cell,) = shared.cells
    shared.write(0)
    shared.launch(0, reads=cell)
    shared.launch(1, reads=cell)
    assert shared.found == [("RAW", "rank 0", "forward of 1")]


def test_event_of_another_rank_orders_who_sees_it() -> None:
    """A rank that has learned of it, and no other one."""
    shared = Shared()
    (cell,) = shared.cells
    written = shared.launch(0, writes=cell)
    with rank_scope(1):
        assert written.query()
    shared.read(1)
    assert shared.found == []
    shared.read(2)
    assert shared.found == [("RAW", "forward of 0", "rank 2")]


def test_outside_is_in_order_with_each_rank_and_leads_to_none() -> None:
    """The program around the ranks sets up and looks on; for that no two ranks are in order."""
    shared = Shared(2)
    for cell in range(2):
        shared.write(None, cell)
    for rank in (0, None, 1, None):
        shared.write(rank, cell=0)
        shared.read(None, cell=0)
    assert shared.found == [("WAW", "rank 0", "rank 1")]
    shared.launch(0, reads=shared.cells[1])
    assert len(shared.found) == 1


def test_event_that_the_outside_has_seen_is_seen_by_ranks() -> None:
    """A helper that waits for the device and tells the rank needs no scope."""
    shared = Shared()
    (cell,) = shared.cells
    assert shared.launch(0, writes=cell).query()
    shared.read(1)
    assert shared.found == []


def test_meetings_are_forgotten_with_their_object() -> None:
    """A service exchanges something in each step, for ever."""
    shared = Shared()
    for _ in range(1000):
        meeting = Meeting()
        for rank in range(2):
            call(arrive, rank, meeting)
        for rank in range(2):
            call(depart, rank, meeting)
    for number in range(1000):
        call(arrive, 0, (number, "is no weak reference's"))
    assert len(shared.checker._hosts._meetings) <= 257


def test_checker_that_is_gone_is_told_of_no_meeting() -> None:
    """To be told keeps no checker alive."""
    shared = Shared()
    shared.write(0)
    gone = weakref.ref(shared.checker)
    del shared
    gc.collect()
    assert gone() is None


def test_parts_that_all_ranks_know_to_be_done_are_forgotten() -> None:
    """And those that one of them has yet to learn of are not."""
    shared, pool = Shared(), torch.zeros(100_000)
    for number in range(3000):
        meeting = Meeting()
        shared.launch(number % 2, writes=pool[number : number + 50])
        shared.device.synchronize()
        for do in (arrive, depart):
            for rank in range(2):
                call(do, rank, meeting)
    assert shared.checker.memory.num_cells(pool) <= 512
    for number in range(1, 2000):
        with rank_scope(0):
            shared.launch(0, writes=pool[50_000 + number : 50_050 + number]).query()
    shared.launch(1, reads=pool[50_001:50_002])
    assert set(shared.found) == {("RAW", "forward of 0", "forward of 1")}


def test_negative_rank_is_refused() -> None:
    """Ranks count from 0."""
    with pytest.raises(ValueError, match=r"rank=-1 is negative"), rank_scope(-1):
        pass


# Tasks ------------------------------------------------------------------------

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


def test_inner_scope_counts() -> None:
    """And the outer one again behind it; to begin or to end one orders nothing."""
    shared = Shared()
    with rank_scope(0):
        shared.write(1)
        shared.checker.on_host_access(shared.device, shared.cells[0], is_write=False)
    assert shared.found == [("RAW", "rank 1", "rank 0")]
