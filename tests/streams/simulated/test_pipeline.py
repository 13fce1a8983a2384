"""A whole scheduler on the simulated device: a missing fence shows in the results."""

import asyncio

import pytest
import torch

from aio_sched.loop import OverlapScheduler
from aio_sched.stages import HostCopy, Pipeline, Step
from aio_sched.testing import virtual_run
from streams.device import open_device

_NUM_STEPS = 12


class Table(Pipeline[int, HostCopy]):
    """Prepare writes a table that forward reads, so that the next prepare must wait."""

    def __init__(self) -> None:
        self.table = torch.zeros(4)
        self.num_prepared = 0
        self.results: list[list[float]] = []
        self.all_ended = asyncio.Event()

    async def prepare(self, step: Step) -> int | None:
        """Write the step's number."""
        if self.num_prepared == _NUM_STEPS:
            return None
        self.num_prepared += 1
        step.launch(self.table.fill_, self.num_prepared, writes=[self.table])
        return self.num_prepared

    async def forward(self, step: Step, inputs: int) -> HostCopy:
        """Read it."""
        return step.copy_to_host(step.launch(self.table.clone, reads=[self.table]))

    async def publish(self, step: Step, inputs: int, output: HostCopy) -> None:
        """Keep what was read."""
        self.results.append((await output).tolist())
        if len(self.results) == _NUM_STEPS:
            self.all_ended.set()


async def results_of(seed: int, profile: str, war_barrier: str) -> list[list[float]]:
    """Run all steps; return what each forward read."""
    with open_device("sim", seed=seed, profile=profile) as device:
        pipeline = Table()
        async with OverlapScheduler(pipeline, device=device, war_barrier=war_barrier) as scheduler:
            scheduler.wake()
            await pipeline.all_ended.wait()
        return pipeline.results


@pytest.mark.parametrize("profile", ["friendly", "random", "long_forward"])
def test_missing_barrier_corrupts_and_each_policy_mends_it(profile: str) -> None:
    """Without a WAR barrier forward reads the next step's table; with one it never does."""
    expected = [[float(number)] * 4 for number in range(1, _NUM_STEPS + 1)]
    for seed in range(5):
        assert virtual_run(results_of(seed, profile, "off"), seed=seed) != expected
        for policy in ("read_done", "whole_forward"):
            assert virtual_run(results_of(seed, profile, policy), seed=seed) == expected


@pytest.mark.parametrize("war_barrier", ["off", "read_done"])
def test_corruption_is_replayed_by_its_seed(war_barrier: str) -> None:
    """The same seed goes wrong in the same way."""
    runs = [virtual_run(results_of(3, "random", war_barrier), seed=3) for _ in range(2)]
    assert runs[0] == runs[1]
