"""What the host does wrong: streams and modes left open, blocking, foreign tasks, luck."""

import asyncio
from typing import Any

import torch
from torch import Tensor

from aio_sched.stages import Step
from aio_sched.testing import Trial
from streams.current import current_stream, on_stream, use_stream
from streams.device import Device
from streams.errors import HostBlockedError
from streams.event import Event
from streams.hazards import handoff
from streams.launch import Launch
from streams.monitor import host_reads, host_writes
from tests.hazards.miniature import FoundBy, Miniature, Steps, serve

__all__ = ["MINIATURES"]


def enqueue(fn: Any, *args: Any, **accesses: Any) -> Launch[Tensor]:
    """Launch on the current stream, as code that is given no stream does."""
    stream = current_stream()
    assert stream is not None, "one is always current"
    return stream.launch(fn, *args, **accesses)


async def stream_leaks_over_an_await(trial: Trial, is_fixed: bool) -> Any:
    """The end of one task's stream block changes the stream of another one, which is inside its.

    The second task writes and reads on what it takes for one and the same stream.
    """
    default, first, second = (trial.device.stream(name) for name in ("default", "first", "second"))
    table = torch.zeros(4, dtype=torch.int64)
    is_inside, is_outside = asyncio.Event(), asyncio.Event()

    async def passes_through() -> None:
        await is_inside.wait()

    async def writes_and_reads() -> Launch[Tensor]:
        enqueue(table.fill_, 1, writes=[table])
        is_inside.set()
        await is_outside.wait()
        return enqueue(table.clone, reads=[table])

    async def on_first() -> None:
        if is_fixed:
            await on_stream(first, passes_through())
        else:
            with use_stream(first):
                entered.set()
                await passes_through()
        is_outside.set()

    async def on_second() -> Launch[Tensor]:
        if is_fixed:
            return await on_stream(second, writes_and_reads())
        await entered.wait()
        with use_stream(second):
            return await writes_and_reads()

    entered = asyncio.Event()
    with use_stream(default):  # as torch has a default stream that is always current
        read, _ = await asyncio.gather(on_second(), on_first())
    return (await read).tolist()


class Modes(Steps):
    """Prepare computes without gradients, and waits for something."""

    def __init__(self, device: Device, *, closes_first: bool) -> None:
        super().__init__(device)
        self.closes_first = closes_first

    async def plan(self, step: Step, number: int) -> int:
        """Compute and wait."""
        if self.closes_first:
            with torch.no_grad():
                torch.ones(2).sum()
            await asyncio.sleep(0)
        else:
            with torch.no_grad():
                torch.ones(2).sum()
                await asyncio.sleep(0)
        return number

    async def forward(self, step: Step, inputs: int) -> Any:
        """Compute something."""
        return step.copy_to_host(step.launch(torch.full, (4,), inputs))


async def torch_mode_leaks_over_an_await(trial: Trial, is_fixed: bool) -> Any:
    """``no_grad`` is the thread's: other tasks run in it, and may end it."""
    return await serve(trial, Modes(trial.device, closes_first=is_fixed), strict=True)


class Counts(Steps):
    """Prepare needs a number that the device has computed."""

    def __init__(self, device: Device, *, awaits: bool) -> None:
        super().__init__(device)
        self.awaits = awaits

    async def plan(self, step: Step, number: int) -> int:
        """Fetch it."""
        counted = step.launch(torch.tensor, number)
        if self.awaits:
            return int((await counted).item())
        # A tensor of a simulated device is the host's to torch; this one is not.
        return int(torch.empty((), device="meta").item())

    async def forward(self, step: Step, inputs: int) -> Any:
        """Compute something."""
        return step.copy_to_host(step.launch(torch.full, (4,), inputs))


async def hidden_synchronization(trial: Trial, is_fixed: bool) -> Any:
    """``.item()`` holds up every task of the loop for as long as a forward takes."""
    return await serve(trial, Counts(trial.device, awaits=is_fixed), strict=True)


class Delegates(Steps):
    """Prepare lets a task of its own do the launching, or does it itself."""

    def __init__(self, device: Device, *, launches_itself: bool) -> None:
        super().__init__(device)
        self.launches_itself = launches_itself

    async def plan(self, step: Step, number: int) -> Launch[Tensor]:
        """Launch."""
        if self.launches_itself:
            return step.launch(torch.full, (4,), number)
        return await asyncio.create_task(self._upload(step, number))

    async def _upload(self, step: Step, number: int) -> Launch[Tensor]:
        return step.schedule_stream.launch(torch.full, (4,), number)

    async def forward(self, step: Step, inputs: Launch[Tensor]) -> Any:
        """Compute something."""
        return step.copy_to_host(step.launch(torch.square, inputs))


async def device_call_by_another_task(trial: Trial, is_fixed: bool) -> Any:
    """With two issuers the order of device calls is a matter of which task comes first."""
    return await serve(trial, Delegates(trial.device, launches_itself=is_fixed), strict=True)


async def event_never_recorded(trial: Trial, is_fixed: bool) -> Any:
    """A stream waits for an event that nobody recorded: elsewhere that waits for nothing."""
    forward, copy = trial.device.stream("forward"), trial.device.stream("copy")
    table = torch.zeros(4, dtype=torch.int64)
    forward.launch(table.fill_, 1, writes=[table])
    copy.wait_event(forward.record("filled") if is_fixed else Event("filled"))
    return (await copy.launch(table.clone, reads=[table])).tolist()


async def host_table_ordered_by_luck(trial: Trial, is_fixed: bool) -> Any:
    """One task updates a table on the host, another one relies on that having happened."""
    table = torch.zeros(4, dtype=torch.int64)
    is_updated = asyncio.Event()

    async def update() -> None:
        host_writes(trial.device, table)
        table.fill_(1)
        if is_fixed:
            handoff(is_updated)
        is_updated.set()

    async def serve_from() -> list[int]:
        if is_fixed:
            await is_updated.wait()
            handoff(is_updated)  # it may have been set long ago, and then nobody is woken
        else:
            await asyncio.sleep(0.001)
        host_reads(trial.device, table)
        values: list[int] = table.tolist()
        return values

    values, _ = await asyncio.gather(serve_from(), update())
    return values


MINIATURES = (
    Miniature(
        "D5",
        FoundBy.REFUSAL,
        "unrecorded",
        r"event 'filled' was never recorded",
        event_never_recorded,
    ),
    Miniature(
        "D11",
        FoundBy.ORDER,
        "RAW",
        r"clone .*\(default\) reads .*fill_ .*\(second\) writes",
        stream_leaks_over_an_await,
    ),
    Miniature(
        "D11",
        FoundBy.REFUSAL,
        "torch_mode",
        r"suspended inside torch mode no_grad",
        torch_mode_leaks_over_an_await,
    ),
    Miniature(
        "D14",
        FoundBy.GUARD,
        HostBlockedError,
        r"item\(\) on meta",
        hidden_synchronization,
    ),
    Miniature(
        "one issuer",
        FoundBy.REFUSAL,
        "issuer",
        r"task '.*' made a device call on stream 'schedule', which task 'aio-sched-issuer' owns",
        device_call_by_another_task,
    ),
    Miniature(
        "task order",
        FoundBy.ORDER,
        "RAW",
        r"task '.*' reads at .* task '.*' writes at .*missing: task .* -> task",
        host_table_ordered_by_luck,
        needs_strict=True,
    ),
)
