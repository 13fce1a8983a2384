"""Pipelines that the faults strike: each keeps account of its steps."""

import asyncio
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from aio_sched import HostCopy, Inbox, Pipeline, StagingRing, Step
from streams.clock import perf_s
from streams.device import Device
from streams.launch import Launch
from tests.faults.ledger import How, Ledger

__all__ = ["BATCH", "Accounted", "Patient", "Squares"]

BATCH = 2


class Accounted(Pipeline[Any, Any]):
    """Notes how each step with work ends: delivered or failed, once.

    Attributes:
        steps: the steps, by index.
        members: the numbers that each step works on.
        started_s: when publish of each step began to wait.
    """

    def __init__(self) -> None:
        self.steps = Ledger()
        self.members: dict[int, tuple[int, ...]] = {}
        self.started_s: dict[int, float] = {}

    @abstractmethod
    async def ask(self, number: int) -> int:
        """Return what the pipeline makes of a number."""

    @staticmethod
    @abstractmethod
    def right(number: int) -> int:
        """Return what it should make of it."""

    def begin(self, step: Step, numbers: Iterable[int]) -> None:
        """Note that a step has taken numbers."""
        self.steps.submit(step.index)
        self.members[step.index] = tuple(numbers)

    def failed(self, step: Step, inputs: Any, error: BaseException) -> None:
        """Note it; the inbox, where there is one, is told as always."""
        super().failed(step, inputs, error)
        if step.index in self.steps.ends:
            self.steps.end(step.index, How.ERROR, error)

    def check(self) -> None:
        """Raise if anything is still in use."""
        self.steps.check()

    def close(self) -> None:
        """Give back what the pipeline itself opened."""


class Squares(Accounted):
    """An inbox, staged uploads, one launch a step."""

    depth = 4

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.inbox: Inbox[int, int] = Inbox(self.wake)
        self.staging = StagingRing(device, (BATCH,), torch.int64, depth=self.depth)

    async def ask(self, number: int) -> int:
        """Return the square of a number."""
        return await self.inbox.ask(number)

    @staticmethod
    def right(number: int) -> int:
        """Return the square of a number."""
        return number * number

    def _take(self, step: Step) -> list[int]:
        numbers = self.inbox.take(step, BATCH)
        if numbers:
            self.begin(step, numbers)
        return numbers

    async def prepare(self, step: Step) -> Launch[Tensor] | None:
        """Upload what waits."""
        numbers = self._take(step)
        return self.staging.upload(step.schedule_stream, numbers) if numbers else None

    async def forward(self, step: Step, inputs: Launch[Tensor]) -> HostCopy:
        """Square it."""
        return step.copy_to_host(step.launch(torch.square, inputs))

    async def publish(self, step: Step, inputs: Launch[Tensor], output: HostCopy) -> None:
        """Answer."""
        self.started_s[step.index] = perf_s()
        self.inbox.answer(step, (await output).tolist())
        self.steps.end(step.index, How.RESULT)

    def check(self) -> None:
        """No item is open, and no block of host memory in use."""
        super().check()
        assert self.inbox.num_open == 0
        assert self.staging.num_free == self.depth


class Patient(Squares):
    """Suspends in prepare, with items in hand, and in forward, with half of it launched."""

    depth = 1

    async def prepare(self, step: Step) -> Launch[Tensor] | None:
        """Wait for the one block of host memory that there is."""
        numbers = self._take(step)
        if not numbers:
            return None
        with await self.staging.slot() as slot:
            slot.host[: len(numbers)] = torch.tensor(numbers)
            await asyncio.sleep(0)
            uploaded = slot.upload(step.schedule_stream, len(numbers))
        await asyncio.sleep(0)
        return uploaded

    async def forward(self, step: Step, inputs: Launch[Tensor]) -> HostCopy:
        """Square it, after a pause."""
        copied = step.launch(torch.clone, inputs)
        await asyncio.sleep(0)
        return step.copy_to_host(step.launch(torch.mul, copied, inputs))
