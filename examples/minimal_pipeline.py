"""The smallest pipeline: numbers come one by one, the device squares them in batches.

python examples/minimal_pipeline.py [auto | cpu | cuda]
"""

import asyncio
import sys

import torch

from aio_sched import (
    Device,
    HostCopy,
    Inbox,
    Launch,
    OverlapScheduler,
    Pipeline,
    StagingRing,
    Step,
    open_device,
)

MAX_BATCH = 8
Numbers = Launch[torch.Tensor]


class Squares(Pipeline[Numbers, HostCopy]):
    """Squares what is asked of its inbox."""

    def __init__(self, device: Device) -> None:
        self.inbox: Inbox[float, float] = Inbox(self.wake)
        self.staging = StagingRing(device, (MAX_BATCH,), torch.float64)

    async def prepare(self, step: Step) -> Numbers | None:
        """Send what has come to the device, while it computes the step before."""
        numbers = self.inbox.take(step, MAX_BATCH)
        return self.staging.upload(step.schedule_stream, numbers) if numbers else None

    async def forward(self, step: Step, inputs: Numbers) -> HostCopy:
        """Enqueue the model and the copy of its results; never wait."""
        return step.copy_to_host(step.launch(torch.square, inputs))

    async def publish(self, step: Step, inputs: Numbers, output: HostCopy) -> None:
        """Await the results and hand them out, while the device computes the next step."""
        self.inbox.answer(step, (await output).tolist())


async def main() -> None:
    """Square a hundred numbers."""
    with open_device(*sys.argv[1:2]) as device:
        squares = Squares(device)
        async with OverlapScheduler(squares, device) as scheduler:
            results = await asyncio.gather(*(squares.inbox.ask(number) for number in range(100)))
    correct = results == [number**2 for number in range(100)]
    print(f"{len(results)} squares in {scheduler.stats.steps} steps on {device.name}: {correct=}")


asyncio.run(main())
