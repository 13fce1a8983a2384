"""The pipelines that ``bench loop`` runs under every schedule."""

import asyncio
import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from aio_sched.bench.device_work import DeviceWork
from aio_sched.bench.host_work import HostWork
from aio_sched.stages import HostCopy, Pipeline, Step
from streams.device import Device
from streams.launch import Launch

__all__ = [
    "Busy",
    "CopyPipeline",
    "CountedPipeline",
    "EmptyPipeline",
    "LaunchPipeline",
    "Measured",
]

Inputs = TypeVar("Inputs")
Output = TypeVar("Output")

_WARM_UP = 5
_BATCH = 100
_TABLE_ROWS = 64


@dataclass(frozen=True)
class Measured:
    """What a pipeline saw of its measured steps.

    Attributes:
        num_steps: how many they were.
        wall_s: from the publishing of the last warm-up step to that of the last step.
        busy_s: time in it during which the forward stream worked.
        batches_s: seconds per step, for each batch of up to 100 steps in it.
    """

    num_steps: int
    wall_s: float
    busy_s: float
    batches_s: list[float]


class CountedPipeline(Pipeline[Inputs, Output]):
    """Runs a number of steps and notes when each one was published.

    Steps before and behind the measured ones keep filling and draining out of the
    figures.

    Args:
        num_steps: steps to measure.
        depth: steps that the scheduler has in flight.

    Attributes:
        warm: set once the measured steps begin.
        ended: set once all steps are published, or one has failed.
        error: why one has.
    """

    def __init__(self, num_steps: int, depth: int) -> None:
        self.warm = asyncio.Event()
        self.ended = asyncio.Event()
        self.error: BaseException | None = None
        self._num_measured = num_steps
        self._num_left = _WARM_UP + num_steps + depth
        self._num_total = self._num_left
        # When each step was published, and how long the forward stream had worked by then.
        self._marks: list[tuple[float, float]] = []

    async def prepare(self, step: Step) -> Inputs | None:
        """Prepare the next step, while there is one."""
        if self._num_left == 0:
            return None
        self._num_left -= 1
        return await self.prepare_one(step)

    @abstractmethod
    async def prepare_one(self, step: Step) -> Inputs:
        """Prepare one step."""

    def failed(self, step: Step, inputs: Inputs | None, error: BaseException) -> None:
        """End the run."""
        self.closed(error)

    def closed(self, error: BaseException | None) -> None:
        """End the run, also when the scheduler stopped by itself."""
        self.error = self.error or error
        self.warm.set()
        self.ended.set()

    def busy_s(self, step: Step) -> float:
        """Return for how long the forward stream has worked so far."""
        return step.forward_stream.busy_s

    def mark(self, step: Step) -> None:
        """Note that a step is being published."""
        self._marks.append((time.perf_counter(), self.busy_s(step)))
        if len(self._marks) == _WARM_UP:
            self.warm.set()
        if len(self._marks) == self._num_total:
            self.ended.set()

    def measured(self) -> Measured:
        """Sum up the measured steps of a run that has ended."""
        marks = self._marks[_WARM_UP - 1 : _WARM_UP + self._num_measured]
        ends = [*range(_BATCH, self._num_measured, _BATCH), self._num_measured]
        return Measured(
            num_steps=self._num_measured,
            wall_s=marks[-1][0] - marks[0][0],
            busy_s=marks[-1][1] - marks[0][1],
            batches_s=[
                (marks[end][0] - marks[start][0]) / (end - start)
                for start, end in zip([0, *ends], ends, strict=False)
            ],
        )


class EmptyPipeline(CountedPipeline[int, int]):
    """Stages that do nothing: what is left is the scheduler itself."""

    async def prepare_one(self, step: Step) -> int:
        """Return something."""
        return step.index

    async def forward(self, step: Step, inputs: int) -> int:
        """Hand it on."""
        return inputs

    async def publish(self, step: Step, inputs: int, output: int) -> None:
        """Note the time."""
        self.mark(step)


class LaunchPipeline(CountedPipeline[int, Launch[int]]):
    """Host work, then one launch; its value is the result.

    Args:
        num_steps: steps to measure.
        depth: steps that the scheduler has in flight.
        busy: the host work and the device work of a step.
    """

    def __init__(self, num_steps: int, depth: int, busy: "Busy") -> None:
        super().__init__(num_steps, depth)
        self._busy = busy

    def busy_s(self, step: Step) -> float:
        """Ask the device work: only it knows when a device other than a thread would be done."""
        return self._busy.on_device.busy_s(step.forward_stream)

    async def prepare_one(self, step: Step) -> int:
        """Work on the host."""
        await self._busy.on_host()
        return step.index

    async def forward(self, step: Step, inputs: int) -> Launch[int]:
        """Let the device work."""
        return step.launch(self._busy.on_device.queued(), inputs)

    async def publish(self, step: Step, inputs: int, output: Launch[int]) -> None:
        """Check that the result is this step's."""
        _check_result(step, await output)
        self.mark(step)


class CopyPipeline(CountedPipeline[Launch[Tensor], HostCopy]):
    """Also writes a table on the schedule stream, and copies it to the host at the end.

    Args:
        num_steps: steps to measure.
        depth: steps in flight, and copies of the table: it needs no WAR barrier.
        busy: the host work and the device work of a step.
        device: where the tables live.
    """

    def __init__(self, num_steps: int, depth: int, busy: "Busy", device: Device) -> None:
        super().__init__(num_steps, depth)
        self.table_copies = depth
        self._busy = busy
        self._tables = [
            torch.zeros(_TABLE_ROWS, dtype=torch.int64, device=device.torch_device)
            for _ in range(depth)
        ]

    def busy_s(self, step: Step) -> float:
        """Ask the device work, like ``LaunchPipeline``."""
        return self._busy.on_device.busy_s(step.forward_stream)

    async def prepare_one(self, step: Step) -> Launch[Tensor]:
        """Work on the host, then write the step's table."""
        await self._busy.on_host()
        return step.launch(_write, self._tables[step.rotation], step.index)

    async def forward(self, step: Step, inputs: Launch[Tensor]) -> HostCopy:
        """Let the device work, and copy the table."""
        return step.copy_to_host(step.launch(self._busy.on_device.queued(), inputs))

    async def publish(self, step: Step, inputs: Launch[Tensor], output: HostCopy) -> None:
        """Check that the copy is of this step's table."""
        _check_result(step, int((await output)[-1]))
        self.mark(step)


class Busy(NamedTuple):
    """The work of one step.

    Attributes:
        host: does the host work.
        host_s: how much of it.
        on_device: the device work.
    """

    host: HostWork
    host_s: float
    on_device: DeviceWork

    async def on_host(self) -> None:
        """Do the host work."""
        await self.host.occupy(self.host_s)


def _write(table: Tensor, value: int) -> Tensor:
    return table.fill_(value)


def _check_result(step: Step, result: int) -> None:
    if result != step.index:
        raise RuntimeError(
            f"step {step.index} was given the results of step {result}; "
            "the schedule under test is wrong, and so are its figures"
        )
