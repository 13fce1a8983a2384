"""Scenarios with and without a flaw; ``aio-sched explore`` is pointed at this module, too."""

import asyncio
import contextlib
from typing import Any

import torch

from aio_sched.inbox import Inbox
from aio_sched.stages import HostCopy, Pipeline, Step
from aio_sched.testing.trial import Trial
from streams.device import Device

__all__ = [
    "Table",
    "broken",
    "clumsy",
    "doubled",
    "fails_behind_its_answer",
    "hasty",
    "leaky",
    "steadfast",
    "stuck",
    "table",
    "table_without_barrier",
    "two_flaws",
]

NUM_STEPS = 8


class Table(Pipeline[int, HostCopy]):
    """Prepare writes a number into a table on the device, which forward reads."""

    def __init__(self, device: Device) -> None:
        self.table = torch.zeros(2, dtype=torch.int64, device=device.torch_device)
        self.results: list[list[int]] = []
        self.is_done = asyncio.Event()
        self._left = list(range(1, NUM_STEPS + 1))

    async def prepare(self, step: Step) -> int | None:
        """Write the next number."""
        if not self._left:
            return None
        number = self._left.pop(0)
        step.launch(self.table.fill_, number, writes=[self.table])
        return number

    async def forward(self, step: Step, inputs: int) -> HostCopy:
        """Read it."""
        return step.copy_to_host(step.launch(self.table.clone, reads=[self.table]))

    async def publish(self, step: Step, inputs: int, output: HostCopy) -> None:
        """Keep what was read."""
        self.results.append((await output).tolist())
        if len(self.results) == NUM_STEPS:
            self.is_done.set()


async def table(trial: Trial, **options: Any) -> list[list[int]]:
    """Run the table with the barrier that its platform has by default."""
    pipeline = Table(trial.device)
    async with trial.scheduler(pipeline, **options):
        await pipeline.is_done.wait()
    return pipeline.results


async def table_without_barrier(trial: Trial) -> list[list[int]]:
    """Let prepare overwrite what forward reads."""
    return await table(trial, war_barrier="off")


class Doubler(Pipeline[list[int], HostCopy]):
    """Doubles what is asked of its inbox, one item a step."""

    def __init__(self) -> None:
        self.inbox: Inbox[int, int] = Inbox(self.wake)

    async def prepare(self, step: Step) -> list[int] | None:
        """Take an item."""
        return self.inbox.take(step, 1) or None

    async def forward(self, step: Step, inputs: list[int]) -> HostCopy:
        """Double it."""
        return step.copy_to_host(step.launch(lambda item: 2 * item, inputs[0]))

    async def publish(self, step: Step, inputs: list[int], output: HostCopy) -> None:
        """Answer."""
        self.inbox.answer(step, [await output])


async def doubled(trial: Trial) -> list[int]:
    """Double four numbers."""
    pipeline = Doubler()
    async with trial.scheduler(pipeline):
        return list(await asyncio.gather(*(pipeline.inbox.ask(item) for item in range(4))))


async def hasty(trial: Trial) -> list[int]:
    """Rely on the first of four tasks to append first: true only in their own order."""
    seen: list[int] = []

    async def append(item: int) -> None:
        await asyncio.sleep(0)
        seen.append(item)

    await asyncio.gather(*(append(item) for item in range(4)))
    return seen[:1]


_leaked: list[asyncio.Task[None]] = []


async def leaky(trial: Trial) -> None:
    """Leave a task and a complaint behind if anything overlaps."""
    trial.at_rest(lambda: not trial.overlap)
    if trial.overlap:
        _leaked.append(asyncio.create_task(asyncio.sleep(1e9)))


async def clumsy(trial: Trial) -> None:
    """Fail in the clean-up."""
    try:
        await doubled(trial)
    except asyncio.CancelledError:
        raise TypeError("released twice") from None


async def steadfast(trial: Trial) -> int:
    """Come to the right result, cancelled or not."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0.001)
    return 7


async def two_flaws(trial: Trial) -> list[int]:
    """Come to another result if tasks are shuffled, and leave a task behind if that is so."""
    seen = await hasty(trial)
    if seen != [0]:
        _leaked.append(asyncio.create_task(asyncio.sleep(1e9)))
    return seen


class Answering(Doubler):
    """Fails each step behind its answer, if steps overlap."""

    def __init__(self, overlap: bool) -> None:
        super().__init__()
        self._overlap = overlap

    async def publish(self, step: Step, inputs: list[int], output: HostCopy) -> None:
        """Answer, and perhaps fail."""
        await super().publish(step, inputs, output)
        if self._overlap:
            raise RuntimeError("behind the answer")


async def fails_behind_its_answer(trial: Trial) -> list[int]:
    """Ask for four numbers."""
    pipeline = Answering(trial.overlap)
    async with trial.scheduler(pipeline):
        return list(await asyncio.gather(*(pipeline.inbox.ask(item) for item in range(4))))


async def stuck(trial: Trial) -> None:
    """Wait for what nobody will do, if anything overlaps."""
    if trial.overlap:
        await asyncio.Event().wait()


async def broken(trial: Trial) -> None:
    """Fail however it runs."""
    raise ZeroDivisionError("in the scenario")
