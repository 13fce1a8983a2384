"""Tables that one stage or stream writes and another one reads."""

from typing import Any

import torch
from torch import Tensor

from aio_sched.stages import Step
from aio_sched.testing import Trial
from buffers.transfer import copy_to_host
from streams.device import Device
from streams.event import Event
from streams.launch import Launch
from streams.stream import Stream
from tests.hazards.miniature import NUM_STEPS, FoundBy, Miniature, Steps, serve

__all__ = ["MINIATURES"]


class Table(Steps):
    """Prepare writes a table, which forward reads twice."""

    def __init__(self, device: Device, *, says_done_first: bool = False) -> None:
        super().__init__(device)
        self.table = torch.zeros(4, dtype=torch.int64)
        self.says_done_first = says_done_first

    async def plan(self, step: Step, number: int) -> int:
        """Write it."""
        step.launch(self.table.fill_, number, writes=[self.table])
        return number

    async def forward(self, step: Step, inputs: int) -> Any:
        """Read it, and read it again."""
        step.launch(self.table.sum, reads=[self.table])
        if self.says_done_first:
            step.shared_read_done()
        copied = step.launch(self.table.clone, reads=[self.table])
        if not self.says_done_first:
            step.shared_read_done()
        return step.copy_to_host(copied)


async def prepare_overwrites_what_forward_reads(trial: Trial, is_fixed: bool) -> Any:
    """Prepare n+1 rewrites the table while forward n reads: no barrier at all."""
    barrier = "read_done" if is_fixed else "off"
    return await serve(trial, Table(trial.device), war_barrier=barrier)


async def read_done_said_before_the_last_read(trial: Trial, is_fixed: bool) -> Any:
    """The barrier is there, and opens one read too early."""
    table = Table(trial.device, says_done_first=not is_fixed)
    return await serve(trial, table, war_barrier="read_done")


async def barrier_at_the_top_of_the_loop(trial: Trial, is_fixed: bool) -> Any:
    """Processing of step n-1 clears rows under forward n: the barrier comes behind it."""
    schedule, forward = trial.device.stream("schedule"), trial.device.stream("forward")
    running = torch.zeros(4, dtype=torch.int64)
    results: list[Launch[Tensor]] = []
    barrier: Event | None = None
    for number in range(NUM_STEPS):
        if barrier is not None and not is_fixed:
            schedule.wait_event(barrier)
        schedule.launch(running.fill_, number, writes=[running])
        forward.wait_stream(schedule)
        results.append(forward.launch(running.clone, reads=[running]))
        barrier = forward.record("read_done")
        if is_fixed:
            schedule.wait_event(barrier)
        if number > 0:
            schedule.launch(clear_finished, running, writes=[running])
    return [(await result).tolist() for result in results]


def clear_finished(running: Tensor) -> None:
    """Process a result."""
    running[1:] = -1


class Planned(Steps):
    """A stream of its own makes a plan, which forward reads."""

    def __init__(self, device: Device, *, joins: bool) -> None:
        super().__init__(device)
        self.table = torch.zeros(4, dtype=torch.int64)
        self.plan_stream = device.stream("plan")
        self.streams = (self.plan_stream,)
        self.joins = joins

    async def plan(self, step: Step, number: int) -> int:
        """Make the plan."""
        # WAR: the schedule stream has waited for the forward that reads the former plan.
        self.plan_stream.wait_stream(step.schedule_stream)
        step.watch(self.plan_stream.launch(self.table.fill_, number, writes=[self.table]))
        return number

    async def forward(self, step: Step, inputs: int) -> Any:
        """Read the plan."""
        if self.joins:
            step.forward_stream.wait_stream(self.plan_stream)
        return step.copy_to_host(step.launch(self.table.clone, reads=[self.table]))


async def plan_stream_not_joined(trial: Trial, is_fixed: bool) -> Any:
    """Forward reads a plan that another stream is still making."""
    pipeline = Planned(trial.device, joins=is_fixed)
    return await serve(trial, pipeline, war_barrier="whole_forward")


class Logits(Steps):
    """Forward writes the same table each time, and it is copied to the host."""

    def __init__(self, device: Device, *, orders: bool) -> None:
        super().__init__(device)
        self.logits = torch.zeros(4, dtype=torch.int64)
        self.orders = orders

    async def forward(self, step: Step, inputs: int) -> Any:
        """Write, and copy."""
        step.launch(self.logits.fill_, inputs, writes=[self.logits])
        if self.orders:
            return step.copy_to_host(self.logits)
        return step.watch(copy_to_host(step.copy_stream, self.logits))


async def copy_not_ordered_behind_its_writer(trial: Trial, is_fixed: bool) -> Any:
    """The copy stream takes half of what forward has written so far."""
    return await serve(trial, Logits(trial.device, orders=is_fixed))


async def verify_waits_for_an_earlier_draft(trial: Trial, is_fixed: bool) -> Any:
    """The event that verify waits for is the former step's: it has one place, rewritten late."""
    draft, verify = trial.device.stream("draft"), trial.device.stream("verify")
    rows = torch.zeros(NUM_STEPS, 4, dtype=torch.int64)
    drafted = draft.record("drafted")
    results: list[Launch[Tensor]] = []
    for number, row in enumerate(rows):
        draft.launch(row.fill_, number, writes=[row])
        if is_fixed:
            drafted = draft.record("drafted")
        verify.wait_event(drafted)
        results.append(verify.launch(row.clone, reads=[row]))
        drafted = draft.record("drafted")
    return [(await result).tolist() for result in results]


async def block_cleared_while_it_is_written(trial: Trial, is_fixed: bool) -> Any:
    """A recycled block is zeroed on one stream while its former owner still adds to it."""
    former, cleaner = trial.device.stream("former"), trial.device.stream("cleaner")
    block = torch.zeros(4, dtype=torch.int64)
    former.launch(block.add_, 7, writes=[block])
    if is_fixed:
        cleaner.wait_stream(former)
    cleaned = cleaner.launch(cleared, block, writes=[block])
    await both(former, cleaner)
    return (await cleaned).tolist()


def cleared(block: Tensor) -> Tensor:
    """Zero it; return what is there then."""
    return block.zero_().clone()


async def both(one: Stream, other: Stream) -> None:
    """Let two streams run dry."""
    await one.drained()
    await other.drained()


MINIATURES = (
    Miniature(
        "D1",
        FoundBy.ORDER,
        "WAR",
        r"prepare#1 .* writes .*forward#0 .* reads .*missing: shared_read_done#0 -> schedule",
        prepare_overwrites_what_forward_reads,
    ),
    Miniature(
        "D1",
        FoundBy.ORDER,
        "WAR",
        r"prepare#1 .* writes .*forward#0 \(forward: clone .* reads",
        read_done_said_before_the_last_read,
    ),
    Miniature(
        "D2",
        FoundBy.ORDER,
        "WAR",
        r"clear_finished .* writes .*clone .* reads .*missing: read_done -> schedule",
        barrier_at_the_top_of_the_loop,
    ),
    Miniature(
        "D4",
        FoundBy.ORDER,
        "RAW",
        r"clone .*\(verify\) reads .*fill_ .*\(draft\) writes .*missing: .* behind fill_",
        verify_waits_for_an_earlier_draft,
    ),
    Miniature(
        "D9",
        FoundBy.ORDER,
        "WAW",
        r"cleared .*\(cleaner\) writes .*add_ .*\(former\) writes",
        block_cleared_while_it_is_written,
    ),
    Miniature(
        "D12",
        FoundBy.ORDER,
        "RAW",
        r"forward#0 \(forward: clone .* reads .*prepare#0 \(plan: fill_ .* writes",
        plan_stream_not_joined,
    ),
    Miniature(
        "D13",
        FoundBy.ORDER,
        "RAW",
        r"forward#0 \(copy: host_copy .* reads .*forward#0 \(forward: fill_ .* writes",
        copy_not_ordered_behind_its_writer,
    ),
)
