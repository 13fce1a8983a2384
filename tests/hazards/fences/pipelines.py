"""Programs that need one fence of the library each, or are said not to."""

import asyncio
from contextlib import aclosing, suppress
from typing import Any

import torch
from torch import Tensor

from aio_sched.engine.engine import Engine
from aio_sched.engine.requests import Request, SamplingParams
from aio_sched.stages import Step
from aio_sched.testing import Trial
from buffers.keep_alive import KeepAlive
from buffers.relay import RelayBuffer
from buffers.slots import Slot, SlotAllocator
from buffers.staging import StagingRing
from streams.device import Device
from tests.aio_sched.engine.tiny import CHUNK, rigged
from tests.hazards.miniature import Steps, serve

__all__ = [
    "blocks_leased_on_two_streams",
    "blocks_used_again",
    "copies_of_a_reused_tensor",
    "engine_with_aborts",
    "fresh_rows",
    "rows_of_a_broken_off_step",
    "rows_of_a_stream_of_its_own",
    "rows_used_behind_the_copy",
    "rows_used_on_two_streams",
    "table_with_read_done",
    "table_with_whole_forward",
    "values_of_a_stream_of_its_own",
]


class Table(Steps):
    """Prepare writes a table, a part of which forward reads; more of forward follows."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.table = torch.zeros(4, dtype=torch.int64)

    async def plan(self, step: Step, number: int) -> int:
        """Write it."""
        step.launch(self.table.fill_, number, writes=[self.table])
        return number

    async def forward(self, step: Step, inputs: int) -> Any:
        """Read it."""
        part = self.table[1:3]
        copied = step.launch(part.clone, reads=[part])
        step.shared_read_done()
        return step.copy_to_host(step.launch(torch.neg, copied))


async def table_with_read_done(trial: Trial) -> Any:
    """Guard the table up to its last read."""
    return await serve(trial, Table(trial.device), war_barrier="read_done")


async def table_with_whole_forward(trial: Trial) -> Any:
    """Guard the table for all of forward."""
    return await serve(trial, Table(trial.device), war_barrier="whole_forward")


class Reused(Steps):
    """Forward writes the same tensor each time, and it is copied to the host."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.logits = torch.zeros(4, dtype=torch.int64)

    async def forward(self, step: Step, inputs: int) -> Any:
        """Write, and copy."""
        step.launch(self.logits.fill_, inputs, writes=[self.logits])
        return step.copy_to_host(self.logits)


async def copies_of_a_reused_tensor(trial: Trial) -> Any:
    """Copy what forward writes again and again."""
    return await serve(trial, Reused(trial.device))


class Owning(Steps):
    """Each step owns a row until it has left the device."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.slots = SlotAllocator(4)
        self.relay = RelayBuffer(device, 4, {"tokens": torch.int64})
        self.relay.follow(self.slots)

    async def plan(self, step: Step, number: int) -> tuple[int, Slot]:
        """Take a row."""
        row = self.slots.take(f"step {step.index}")
        step.when_done(lambda: self.slots.give_back(row))
        return number, row

    async def forward(self, step: Step, inputs: tuple[int, Slot]) -> Any:
        """Compute something that has nothing to do with the row."""
        return step.copy_to_host(step.launch(_number, inputs[0]))

    def uses(self, row: Slot) -> dict[str, Any]:
        """Declare that a launch writes a row."""
        return {"writes": [self.relay.access("tokens", (row.index,))]}


class BreakingOff(Owning):
    """Every second prepare, the first and the last too, breaks off behind a launch."""

    async def plan(self, step: Step, number: int) -> tuple[int, Slot]:
        """Use the row, and perhaps break off."""
        number, row = await super().plan(step, number)
        step.launch(_number, number, **self.uses(row))
        if number % 2:
            raise BrokenOffError(f"step {number}")
        return number, row


class BrokenOffError(Exception):
    """Prepare did not get to its end."""


async def rows_of_a_broken_off_step(trial: Trial) -> Any:
    """Give back rows that prepare used before it raised."""
    with suppress(BrokenOffError):
        await serve(trial, BreakingOff(trial.device))


class UsingBehindTheCopy(Owning):
    """Forward goes on after what it copies."""

    async def forward(self, step: Step, inputs: tuple[int, Slot]) -> Any:
        """Copy something, and use the row only then."""
        copied = await super().forward(step, inputs)
        step.launch(_number, inputs[0], **self.uses(inputs[1]))
        return copied


async def rows_used_behind_the_copy(trial: Trial) -> Any:
    """Give back rows that forward uses behind the copy."""
    return await serve(trial, UsingBehindTheCopy(trial.device))


class UsingElsewhere(Owning):
    """A stream of the pipeline's own uses the row; nothing else waits for it."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.own_stream = device.stream("own")
        self.streams = (self.own_stream,)

    async def plan(self, step: Step, number: int) -> tuple[int, Slot]:
        """Use the row."""
        number, row = await super().plan(step, number)
        step.watch(self.own_stream.launch(_number, number, **self.uses(row)))
        return number, row


class TakingFromElsewhere(Steps):
    """Forward takes the value of a launch on a stream of the pipeline's own."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.own_stream = device.stream("own")
        self.streams = (self.own_stream,)

    async def forward(self, step: Step, inputs: int) -> Any:
        """Negate what the other stream gives."""
        given = self.own_stream.launch(_number, inputs)
        return step.copy_to_host(step.launch(torch.neg, given))


async def values_of_a_stream_of_its_own(trial: Trial) -> Any:
    """Take a launch's value across streams."""
    return await serve(trial, TakingFromElsewhere(trial.device))


async def rows_of_a_stream_of_its_own(trial: Trial) -> Any:
    """Give back rows that a stream of the pipeline's own uses."""
    return await serve(trial, UsingElsewhere(trial.device))


async def rows_used_on_two_streams(trial: Trial) -> Any:
    """Stash on one stream and gather on another, again and again."""
    writer, reader = trial.device.stream("writer"), trial.device.stream("reader")
    relay = RelayBuffer(trial.device, 2, {"tokens": torch.int64})
    gathered = []
    for number in range(4):
        relay.stash([1], tokens=torch.tensor([number]), stream=writer)
        gathered.append(relay.gather([1], stream=reader))
    return [(await values)["tokens"].tolist() for values in gathered]


async def blocks_used_again(trial: Trial) -> Any:
    """Upload from one block of host memory, again and again."""
    ring = StagingRing(trial.device, (4,), torch.int64, depth=1)
    stream = trial.device.stream("schedule")
    uploads = []
    for number in range(4):
        with await ring.slot() as slot:
            slot.host.fill_(number)
            uploads.append(slot.upload(stream))
    return [(await upload).tolist() for upload in uploads]


async def blocks_leased_on_two_streams(trial: Trial) -> Any:
    """Give blocks of a pool back by completion of their uses, and take them again."""
    writer, reader = trial.device.stream("writer"), trial.device.stream("reader")
    keep_alive = KeepAlive(trial.device)
    free = [torch.zeros(4, dtype=torch.int64) for _ in range(4)]
    copies = []
    for number in range(4):
        block = free.pop()
        with keep_alive.lease(block, free.append, covers=[block]) as lease:
            filled = lease.use(writer.launch(block.fill_, number, writes=[block]))
            reader.wait_event(filled.event)
            copies.append(lease.use(reader.launch(block.clone, reads=[block])))
        await filled
        keep_alive.collect()
    await keep_alive.drained()
    return [(await copy).tolist() for copy in copies]


async def fresh_rows(trial: Trial) -> Any:
    """Read rows that nobody but their buffer has written."""
    relay = RelayBuffer(trial.device, 2, {"tokens": torch.int64})
    return (await relay.gather([1, 2], stream=trial.device.stream("reader")))["tokens"].tolist()


async def engine_with_aborts(trial: Trial) -> Any:
    """Continue texts, one more than fit; readers leave in the middle, one after another."""
    model = rigged()
    sizes: dict[str, Any] = {"max_running": 2, "prefill_rows": 2, "chunk": CHUNK}
    engine = Engine(model, trial.device, overlap=trial.overlap, **sizes)
    async with engine:
        params = SamplingParams(max_tokens=12)
        requests = [engine.submit(bytes([1 + n, 2, 3]), params) for n in range(3)]
        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(_read_some(engine, each)) for each in requests]
    return [task.result() for task in reading]


async def _read_some(engine: Engine, request: Request) -> list[int]:
    async with aclosing(engine.stream(request)) as tokens:
        return [token for _ in range(2) if (token := await anext(tokens, None)) is not None]


def _number(number: int) -> Tensor:
    return torch.tensor([number])
