"""A pipeline with a race: the report, the command that replays it, a picture, and the fix.

python examples/find_a_race.py [picture.svg]

Runs on a simulated device in virtual time; the race is found whatever the timing.
"""

import asyncio
import sys

import torch
from torch import Tensor

from aio_sched import Device, HostCopy, Inbox, Pipeline, Step
from aio_sched.testing import ExplorationError, Trial, assert_same_results

NUM_REQUESTS = 8


class Scaled(Pipeline[int, HostCopy]):
    """Scales a number, and shifts it; a table on the device says by how much."""

    def __init__(self, device: Device, *, is_fixed: bool) -> None:
        self.inbox: Inbox[int, int] = Inbox(self.wake)
        self.table = torch.zeros(2, dtype=torch.int64, device=device.torch_device)
        self.is_fixed = is_fixed

    async def prepare(self, step: Step) -> int | None:
        """Write the table for the next number."""
        numbers = self.inbox.take(step, 1)
        if not numbers:
            return None
        step.launch(set_table, self.table, numbers[0], writes=[self.table])
        return numbers[0]

    async def forward(self, step: Step, inputs: int) -> HostCopy:
        """Scale and shift; then the next prepare may write the table again."""
        scaled = step.launch(scale, inputs, self.table, reads=[self.table])
        if not self.is_fixed:
            step.shared_read_done()  # true until somebody added the shift below
        shifted = step.launch(shift, scaled, self.table, reads=[self.table])
        if self.is_fixed:
            step.shared_read_done()
        return step.copy_to_host(shifted)

    async def publish(self, step: Step, inputs: int, output: HostCopy) -> None:
        """Answer."""
        self.inbox.answer(step, [int(await output)])


def set_table(table: Tensor, number: int) -> None:
    """Choose scale and shift."""
    table.copy_(torch.tensor([number, 100 * number]))


def scale(number: int, table: Tensor) -> Tensor:
    """Apply the first."""
    return number * table[0]


def shift(scaled: Tensor, table: Tensor) -> Tensor:
    """Apply the second."""
    return scaled + table[1]


async def serve(trial: Trial, *, is_fixed: bool) -> list[int]:
    """Ask for a few numbers at once."""
    pipeline = Scaled(trial.device, is_fixed=is_fixed)
    async with trial.scheduler(pipeline):
        return await asyncio.gather(*(pipeline.inbox.ask(n) for n in range(NUM_REQUESTS)))


async def racy(trial: Trial) -> list[int]:
    """Say too early that the table may be written."""
    return await serve(trial, is_fixed=False)


async def fixed(trial: Trial) -> list[int]:
    """Say it behind the last read."""
    return await serve(trial, is_fixed=True)


def main() -> None:
    """Explore both."""
    picture = (sys.argv[1:2] or ["race.svg"])[0]
    try:
        assert_same_results(racy)
    except ExplorationError as error:
        print(error)
        error.finding.picture(picture)
        print(f"picture: {picture}")
    explored = assert_same_results(fixed, seeds=range(200))
    print(f"fixed: {explored.num_runs} schedules, nothing found")


if __name__ == "__main__":
    main()
