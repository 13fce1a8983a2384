"""Images that come one by one, upscaled in batches of however many wait.

python examples/vision_batches.py [auto | cpu | cuda]
"""

import asyncio
import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import aio_sched
from aio_sched import Device, HostCopy, Inbox, Pipeline, Step

MAX_BATCH, SIDE, NUM_IMAGES = 8, 64, 200


class Upscaler(Pipeline[Any, HostCopy]):
    """Doubles the sides of RGB images: a cubic upscale, then a convolution that sharpens."""

    def __init__(self, device: Device) -> None:
        self.inbox: Inbox[Tensor, Tensor] = Inbox(self.wake)
        self.staging = aio_sched.StagingRing(device, (MAX_BATCH, 3, SIDE, SIDE), torch.uint8)
        kernel = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 8.0, -1.0], [0.0, -1.0, 0.0]]) / 4
        self.kernel = kernel.expand(3, 1, 3, 3).contiguous().to(device.torch_device)

    async def prepare(self, step: Step) -> Any:
        """Stack the images that wait, in a block of one size whatever their number."""
        images = self.inbox.take(step, MAX_BATCH)
        if not images:
            return None
        with self.staging.take() as slot:
            torch.stack(images, out=slot.host[: len(images)])
            return len(images), slot.upload(step.schedule_stream)

    async def forward(self, step: Step, inputs: Any) -> HostCopy:
        """Enqueue the model."""
        return step.copy_to_host(step.launch(self.upscale, *inputs))

    def upscale(self, num_images: int, block: Tensor) -> Tensor:
        """Return the upscaled images of a block."""
        large = functional.interpolate(block.float(), scale_factor=2.0, mode="bicubic")
        sharp = functional.conv2d(large, self.kernel, padding=1, groups=3)
        return sharp.round().clamp(0, 255).to(torch.uint8)[:num_images]

    async def publish(self, step: Step, inputs: Any, output: HostCopy) -> None:
        """Answer each asker with an image."""
        self.inbox.answer(step, await output)


async def upscaled(schedule: Any, device: Device, images: Tensor) -> Tensor:
    """Upscale images as they come, through one kind of scheduler."""
    upscaler = Upscaler(device)
    async with schedule(upscaler, device) as scheduler, asyncio.TaskGroup() as asking:
        answers = []
        for number, image in enumerate(images):
            answers.append(asking.create_task(upscaler.inbox.ask(image)))
            await asyncio.sleep(0.01 * (number % 7 == 6))
    print(f"{schedule.__name__}: {NUM_IMAGES} images in {scheduler.stats.steps} batches")
    return torch.stack([answer.result() for answer in answers])


async def main() -> None:
    """Upscale pictures of blobs both ways, and compare."""
    noise = torch.rand(NUM_IMAGES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = (255 * functional.interpolate(noise, size=SIDE, mode="bilinear")).to(torch.uint8)
    with aio_sched.open_device(*sys.argv[1:2]) as device:
        overlapped = await upscaled(aio_sched.OverlapScheduler, device, images)
        sequential = await upscaled(aio_sched.SequentialScheduler, device, images)
    size = "x".join(map(str, overlapped.shape[2:]))
    identical = torch.equal(overlapped, sequential)
    print(f"{NUM_IMAGES} images of {SIDE}x{SIDE} upscaled to {size} on {device.name}: {identical=}")


asyncio.run(main())
