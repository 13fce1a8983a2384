"""Waits that never end."""

import asyncio
from typing import Any

import torch

from aio_sched.stages import Step
from aio_sched.testing import DeadlockError, Trial
from streams.event import Event
from streams.simulated import Latch
from tests.hazards.miniature import NUM_STEPS, FoundBy, Miniature, Steps

__all__ = ["MINIATURES"]


async def waiter_binds_to_a_later_record(trial: Trial, is_fixed: bool) -> Any:
    """An event kept in one place is recorded again before its waiter looks.

    The second step's work lasts until the first one is delivered, so that the waiter, who
    waits for the second by mistake, waits for itself. ``record()`` makes a new event each
    time, but whoever keeps only the latest one has this all the same.
    """
    stream = trial.device.stream("forward")
    second = Latch("second step")
    launched: asyncio.Queue[Event] = asyncio.Queue()
    latest = stream.record("nothing yet")

    async def issue() -> None:
        nonlocal latest
        for work in (torch.zeros, second):
            stream.launch(work, *([4] if work is torch.zeros else []))
            latest = stream.record("step_done")
            launched.put_nowait(latest)

    async def deliver() -> list[str]:
        delivered = []
        for _ in range(2):
            event = await launched.get()
            await (event if is_fixed else latest)
            delivered.append(event.label)
            second.release()
        return delivered

    delivered, _ = await asyncio.gather(deliver(), issue())
    return delivered


async def two_streams_wait_for_each_other(trial: Trial, is_fixed: bool) -> Any:
    """Two kernels spin on a flag that only the launch behind the other one sets."""
    first, second = trial.device.stream("first"), trial.device.stream("second")
    flags = {first: Latch("flag of first"), second: Latch("flag of second")}
    for stream, other in ((first, second), (second, first)):
        spin, set_flag = flags[other], flags[stream].release
        for work in (set_flag, spin) if is_fixed else (spin, set_flag):
            stream.launch(work)
    await first.drained()
    await second.drained()
    return "done"


class Submitted(Steps):
    """Works on what was submitted."""

    async def plan(self, step: Step, number: int) -> int:
        """Take it."""
        return number

    async def forward(self, step: Step, inputs: int) -> Any:
        """Compute something."""
        return step.copy_to_host(step.launch(torch.full, (4,), inputs))

    def submit(self, numbers: list[int], *, wakes: bool) -> None:
        """Leave work for prepare."""
        self._left += numbers
        if wakes:
            self.wake()


async def wake_up_forgotten(trial: Trial, is_fixed: bool) -> Any:
    """Work is left for a scheduler that has gone to sleep, and nobody tells it."""
    pipeline = Submitted(trial.device)
    pipeline._left.clear()
    async with trial.scheduler(pipeline):
        await asyncio.sleep(1.0)  # it has found nothing by now
        pipeline.submit(list(range(NUM_STEPS)), wakes=is_fixed)
        await pipeline.all_ended.wait()
    return pipeline.results


MINIATURES = (
    Miniature(
        "D4",
        FoundBy.PROGRESS,
        DeadlockError,
        r"waits for <Event 'step_done' on 'forward' #2 pending>",
        waiter_binds_to_a_later_record,
    ),
    Miniature(
        "D10",
        FoundBy.PROGRESS,
        DeadlockError,
        r"flag of second #1.*flag of first #1",
        two_streams_wait_for_each_other,
    ),
    Miniature(
        "lost wake-up",
        FoundBy.PROGRESS,
        DeadlockError,
        r"wake_up_forgotten waits for Event.wait.*aio-sched-issuer",
        wake_up_forgotten,
    ),
)
