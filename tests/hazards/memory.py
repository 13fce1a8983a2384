"""Rows, slots and blocks that are given back, or used again, too early."""

from typing import Any

import torch
from torch import Tensor

from aio_sched.stages import Step
from aio_sched.testing import Trial
from buffers.keep_alive import KeepAlive
from buffers.relay import RelayBuffer
from buffers.slots import Slot, SlotAllocator
from buffers.staging import StagingRing
from streams.device import Device
from streams.launch import Launch
from streams.monitor import host_reads, host_writes
from tests.hazards.miniature import NUM_STEPS, FoundBy, Miniature, Steps, serve

__all__ = ["MINIATURES"]


class Slotted(Steps):
    """Each step has a slot, whose row it writes and reads."""

    def __init__(self, device: Device, *, frees_late: bool) -> None:
        super().__init__(device)
        self.relay = RelayBuffer(device, 4, {"tokens": torch.int64}, needs_host_values=False)
        self.slots = SlotAllocator(4)
        self.relay.follow(self.slots)
        self.frees_late = frees_late

    async def forward(self, step: Step, inputs: int) -> Any:
        """Write the row, read it, and let go of the slot."""
        slot = self.slots.take(f"step {step.index}")
        self.relay.stash([slot], tokens=torch.tensor([inputs]))
        rows = step.launch(_tokens, self.relay.gather([slot]))
        if self.frees_late:
            step.when_done(lambda: self.slots.give_back(slot))
        else:
            self.slots.give_back(slot)
        return step.copy_to_host(rows)


def _tokens(rows: dict[str, Tensor]) -> Tensor:
    return rows["tokens"]


async def slot_freed_under_a_step_in_flight(trial: Trial, is_fixed: bool) -> Any:
    """The row may have a new owner while the device still reads it for the old one."""
    return await serve(trial, Slotted(trial.device, frees_late=is_fixed))


class Ring(Steps):
    """Each step stashes a row of a ring, and reads the one of the step before."""

    def __init__(self, device: Device, num_rows: int) -> None:
        super().__init__(device)
        self.num_rows = num_rows
        self.relay = RelayBuffer(
            device, num_rows, {"tokens": torch.int64}, strict=True, needs_host_values=False
        )

    def row(self, index: int) -> Slot:
        """Return the row of a step; its generation counts the rounds of the ring."""
        return Slot(1 + index % self.num_rows, 1 + index // self.num_rows, f"step {index}")

    async def forward(self, step: Step, inputs: int) -> Any:
        """Write one row, read the other."""
        self.relay.stash([self.row(step.index)], tokens=torch.tensor([inputs]))
        if step.index == 0:
            return step.copy_to_host(step.launch(torch.zeros, 1))
        rows = self.relay.gather([self.row(step.index - 1)])
        return step.copy_to_host(step.launch(_tokens, rows))


async def relay_ring_wraps(trial: Trial, is_fixed: bool) -> Any:
    """A ring of one row: the next step's tokens are read for this one's; all is in order."""
    return await serve(trial, Ring(trial.device, num_rows=2 if is_fixed else 1))


class Skipping(Steps):
    """Each step adds to what the former one left in a row; one may forget to write it."""

    def __init__(self, device: Device, *, writes_always: bool) -> None:
        super().__init__(device)
        self.relay = RelayBuffer(
            device, 1, {"total": torch.int64}, strict=True, needs_host_values=False
        )
        self.writes_always = writes_always

    async def forward(self, step: Step, inputs: int) -> Any:
        """Read the row, and write the new total."""
        former = self.relay.gather([1]) if step.index else {"total": torch.zeros(1).long()}
        total = step.launch(_add, former, inputs)
        if self.writes_always or step.index != 1:
            self.relay.stash([1], total=total)
        return step.copy_to_host(total)


def _add(former: dict[str, Tensor], number: int) -> Tensor:
    return former["total"] + number


async def row_of_a_former_step_read_again(trial: Trial, is_fixed: bool) -> Any:
    """A step that wrote nothing leaves the tokens of the one before, and they are taken."""
    return await serve(trial, Skipping(trial.device, writes_always=is_fixed))


class HostRead(Steps):
    """Copies to host memory of its own, and reads that."""

    def __init__(self, device: Device, *, awaits_copy: bool) -> None:
        super().__init__(device)
        self.awaits_copy = awaits_copy

    async def forward(self, step: Step, inputs: int) -> Any:
        """Compute, and copy behind it."""
        host = torch.zeros(4, dtype=torch.int64)
        computed = step.launch(torch.full, (4,), inputs)
        copied = step.watch(step.copy_stream.launch(host.copy_, computed, writes=[host]))
        return host, computed, copied

    async def publish(self, step: Step, inputs: int, output: Any) -> None:
        """Wait, and read."""
        host, computed, copied = output
        await (copied if self.awaits_copy else computed)
        host_reads(self.device, host)
        self._end(host.tolist())


async def host_reads_its_copy_early(trial: Trial, is_fixed: bool) -> Any:
    """Publish waits for the forward, and not for the copy behind it: stale tokens."""
    return await serve(trial, HostRead(trial.device, awaits_copy=is_fixed))


class Uploads(Steps):
    """Uploads a block of host memory in each step."""

    def __init__(self, device: Device, *, has_ring: bool) -> None:
        super().__init__(device)
        self.block = torch.zeros(4, dtype=torch.int64)
        self.ring = StagingRing(device, (4,), torch.int64, depth=3) if has_ring else None

    async def plan(self, step: Step, number: int) -> Launch[Tensor]:
        """Fill a block, and enqueue its copy."""
        if self.ring is not None:
            return self.ring.upload(step.schedule_stream, [number] * 4)
        host_writes(self.device, self.block)
        self.block.fill_(number)
        return step.launch(torch.clone, self.block, reads=[self.block])

    async def forward(self, step: Step, inputs: Launch[Tensor]) -> Any:
        """Use what was uploaded."""
        return step.copy_to_host(step.launch(torch.square, inputs))


async def staging_rewritten_during_its_copy(trial: Trial, is_fixed: bool) -> Any:
    """The host writes the next upload into memory that the copy of this one still reads."""
    return await serve(trial, Uploads(trial.device, has_ring=is_fixed))


async def block_freed_on_one_stream_used_on_another(trial: Trial, is_fixed: bool) -> Any:
    """A pool takes a block back behind its last use on its own stream; another one reads it."""
    main, side = trial.device.stream("main"), trial.device.stream("side")
    keep_alive = KeepAlive(trial.device)
    free = [torch.zeros(4, dtype=torch.int64) for _ in range(NUM_STEPS)]
    copies: list[Launch[Tensor]] = []
    for number in range(NUM_STEPS):
        block = free.pop()
        with keep_alive.lease(block, free.append, covers=[block]) as lease:
            filled = lease.use(main.launch(block.fill_, number, writes=[block]))
            side.wait_event(filled.event)
            copies.append(side.launch(block.clone, reads=[block]))
            if is_fixed:
                lease.use(copies[-1])
        await filled
        keep_alive.collect()
    results = [(await copy).tolist() for copy in copies]
    await keep_alive.drained()
    return results


MINIATURES = (
    Miniature(
        "D3",
        FoundBy.ORDER,
        "early_return",
        r"relay.tokens\[1\].*: give_back\) writes .*forward#0 \(forward: relay.gather .* reads",
        slot_freed_under_a_step_in_flight,
    ),
    Miniature(
        "D6",
        FoundBy.REFUSAL,
        "stale",
        r"slot 1, generation 1 of 'step 0' was written for slot 1, generation 2 of 'step 1'",
        relay_ring_wraps,
    ),
    Miniature(
        "D6",
        FoundBy.REFUSAL,
        "poison",
        r"total of slot 1 .* was consumed and not written since",
        row_of_a_former_step_read_again,
    ),
    Miniature(
        "D7",
        FoundBy.ORDER,
        "RAW",
        r"publish#0 \((host|task .*)\) reads .*forward#0 \(copy: copy_ .* writes",
        host_reads_its_copy_early,
    ),
    Miniature(
        "D8",
        FoundBy.ORDER,
        "WAR",
        r"prepare#1 \((host|task .*)\) writes .*prepare#0 \(schedule: clone .* reads",
        staging_rewritten_during_its_copy,
    ),
    Miniature(
        "D9",
        FoundBy.ORDER,
        "early_return",
        r"the end of a lease .* writes .*clone .*\(side\) reads",
        block_freed_on_one_stream_used_on_another,
    ),
)
