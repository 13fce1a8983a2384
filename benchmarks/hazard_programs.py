"""Small programs with a race and without it, for any device: what checkers are compared on.

Each declares its accesses, so that a ``HazardChecker`` sees them, and uses nothing but torch's
own operators, so that torch's CUDA sanitizer sees the same.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import NamedTuple

import torch
from torch import Tensor

from aio_sched import (
    Engine,
    HostCopy,
    Inbox,
    OverlapScheduler,
    Pipeline,
    Request,
    SamplingParams,
    Step,
    load_model,
)
from streams.device import Device

__all__ = ["PROGRAMS", "Program", "generate", "serve_table"]

NUM_ITEMS = 12


class Program(NamedTuple):
    """A race and its cure.

    Attributes:
        name: what it is about.
        run: runs it on a device, with the cure or without.
        has_race: whether there is something to cure.
        blind: why torch's sanitizer cannot see the race; empty if it can.
    """

    name: str
    run: Callable[[Device, bool], Awaitable[object]]
    has_race: bool = True
    blind: str = ""


async def write_then_read(device: Device, is_fenced: bool) -> None:
    """RAW: a stream reads what another one writes."""
    writer, reader, table = device.stream("writer"), device.stream("reader"), _table(device)
    writer.launch(table.fill_, 1, writes=[table])
    if is_fenced:
        reader.wait_event(writer.record("written"))
    reader.launch(table.clone, reads=[table])
    await device.drain()


async def read_then_overwrite(device: Device, is_fenced: bool) -> None:
    """WAR: a stream overwrites what another one reads."""
    writer, reader, table = device.stream("writer"), device.stream("reader"), _table(device)
    reader.launch(table.clone, reads=[table])
    if is_fenced:
        # WAR: the writer reuses the table that the reader may still read.
        writer.wait_event(reader.record("shared_read_done"))
    writer.launch(table.fill_, 1, writes=[table])
    await device.drain()


async def write_twice(device: Device, is_fenced: bool) -> None:
    """WAW: two streams write the same table."""
    first, second, table = device.stream("first"), device.stream("second"), _table(device)
    first.launch(table.fill_, 1, writes=[table])
    if is_fenced:
        second.wait_stream(first)
    second.launch(table.fill_, 2, writes=[table])
    await device.drain()


async def await_between(device: Device, is_fenced: bool) -> None:
    """The host awaits the writer and then launches the reader: no device-side wait at all."""
    writer, reader, table = device.stream("writer"), device.stream("reader"), _table(device)
    written = writer.launch(table.fill_, 1, writes=[table])
    if is_fenced:
        await written
    reader.launch(table.clone, reads=[table])
    await device.drain()


async def query_between(device: Device, is_fenced: bool) -> None:
    """The host asks until the reader is done and then launches the writer."""
    writer, reader, table = device.stream("writer"), device.stream("reader"), _table(device)
    read = reader.launch(table.clone, reads=[table])
    while is_fenced and not read.query():  # noqa: ASYNC110  # polling is what it is about
        await asyncio.sleep(0)
    writer.launch(table.fill_, 1, writes=[table])
    await device.drain()


async def wait_through_a_third(device: Device, is_fenced: bool) -> None:
    """The reader waits for a stream that does nothing but wait for the writer."""
    writer, middle, reader = (device.stream(name) for name in ("writer", "middle", "reader"))
    table = _table(device)
    writer.launch(table.fill_, 1, writes=[table])
    if is_fenced:
        middle.wait_event(writer.record("written"))
    reader.wait_stream(middle)
    reader.launch(table.clone, reads=[table])
    await device.drain()


async def read_through_a_view(device: Device, is_fenced: bool) -> None:
    """RAW, and the reader uses a part of the table that begins elsewhere."""
    writer, reader, table = device.stream("writer"), device.stream("reader"), _table(device)
    part = table[2:]
    writer.launch(table.fill_, 1, writes=[table])
    if is_fenced:
        reader.wait_event(writer.record("written"))
    reader.launch(part.clone, reads=[part])
    await device.drain()


class Table(Pipeline[int, HostCopy]):
    """Prepare writes a table that forward reads: the barrier keeps prepare n+1 off forward n."""

    def __init__(self, device: Device) -> None:
        self.inbox: Inbox[int, int] = Inbox(self.wake)
        self.table = _table(device)

    async def prepare(self, step: Step) -> int | None:
        """Write it."""
        items = self.inbox.take(step, 1)
        if not items:
            return None
        step.launch(self.table.fill_, items[0], writes=[self.table])
        return items[0]

    async def forward(self, step: Step, inputs: int) -> HostCopy:
        """Read it."""
        copied = step.launch(self.table.clone, reads=[self.table])
        step.shared_read_done()
        return step.copy_to_host(copied)

    async def publish(self, step: Step, inputs: int, output: HostCopy) -> None:
        """Answer with what was read."""
        self.inbox.answer(step, [int((await output)[0])])


async def serve_table(device: Device, is_fenced: bool) -> list[int]:
    """Run the pipeline over some items, with its barrier or without; return its answers."""
    table = Table(device)
    async with OverlapScheduler(table, device, war_barrier="read_done" if is_fenced else "off"):
        return await asyncio.gather(*(table.inbox.ask(item) for item in range(NUM_ITEMS)))


async def generate(device: Device, is_fenced: bool = True) -> int:
    """Let the engine serve some requests, of which every second reader leaves early.

    Returns:
        how many tokens were read.
    """
    async with Engine(load_model(), device, max_running=2) as engine:
        _settle(device)
        params = SamplingParams(max_tokens=6)
        requests = [engine.submit(f"The cat {n}", params) for n in range(4)]
        return sum(
            await asyncio.gather(
                *(_read(engine, request, 2 if n % 2 else 6) for n, request in enumerate(requests))
            )
        )


async def _read(engine: Engine, request: Request, most: int) -> int:
    num_read = 0
    async with aclosing(engine.stream(request)) as tokens:
        async for _ in tokens:
            num_read += 1
            if num_read == most:
                break
    return num_read


def _table(device: Device) -> Tensor:
    table = torch.zeros(4, dtype=torch.int64, device=device.torch_device)
    _settle(device)
    return table


def _settle(device: Device) -> None:
    """Finish what was put on the default stream, which the streams here do not wait for."""
    if device.torch_device.type == "cuda":
        torch.cuda.synchronize(device.torch_device)


_BY_ADDRESS = "it knows tensors by their first address, and a view has another"

PROGRAMS = (
    Program("write, then read", write_then_read),
    Program("read, then overwrite", read_then_overwrite),
    Program("write twice", write_twice),
    Program("await between", await_between),
    Program("query between", query_between),
    Program("wait through a third", wait_through_a_third),
    Program("read through a view", read_through_a_view, blind=_BY_ADDRESS),
    Program("pipeline with a table", serve_table),
    Program("engine", generate, has_race=False),
)
