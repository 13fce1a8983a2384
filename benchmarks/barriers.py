"""What each policy of the WAR barrier costs, on every profile of the simulated device.

    python -m benchmarks.barriers [--seeds 20] [--steps 12] [--json]

A pipeline uploads a table in ``prepare`` and reads it at the beginning of ``forward``, behind
which more of forward follows. Times are virtual: what they are on a device is that device's
matter, which policy waits for what is not.
"""

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from aio_sched import Device, HostCopy, Launch, Pipeline, StagingRing, Step
from aio_sched.barrier import WarPolicy
from aio_sched.testing import Outcome, Scenario, Schedule, Trial, run_once
from streams.simulated import PROFILES

__all__ = ["POLICIES", "Cost", "SharedTable", "main", "measure", "schedules", "sharing"]

POLICIES = tuple(policy.value for policy in WarPolicy)
_SIZE = 4


class SharedTable(Pipeline[Tensor, HostCopy]):
    """Prepare uploads a table that forward reads before it does the rest of its work.

    Args:
        device: where it runs.
        copies: of the table, to rotate; 1 keeps one.
        num_steps: steps until there is nothing more to do.

    Attributes:
        results: what was read, by step.
        all_published: set after the last step.
    """

    def __init__(self, device: Device, copies: int, num_steps: int) -> None:
        self.table_copies = copies
        self.tables = [torch.zeros(_SIZE, dtype=torch.int64) for _ in range(copies)]
        self.staging = StagingRing(device, (_SIZE,), torch.int64)
        self.num_steps = num_steps
        self.results: list[list[int]] = []
        self.all_published = asyncio.Event()

    async def prepare(self, step: Step) -> Tensor | None:
        """Upload the step's number into the table."""
        if step.index >= self.num_steps:
            return None
        table = self.tables[step.rotation % self.table_copies]
        numbers = self.staging.upload(step.schedule_stream, [step.index] * _SIZE)
        step.launch(table.copy_, numbers, writes=[table])
        return table

    async def forward(self, step: Step, inputs: Tensor) -> HostCopy:
        """Read the table, say so, and go on."""
        hidden: Launch[Tensor] = step.launch(inputs.clone, reads=[inputs])
        step.shared_read_done()
        for _ in range(3):
            hidden = step.launch(torch.clone, hidden)
        return step.copy_to_host(hidden)

    async def publish(self, step: Step, inputs: Tensor, output: HostCopy) -> None:
        """Keep what was read."""
        self.results.append((await output).tolist())
        if len(self.results) == self.num_steps:
            self.all_published.set()


def sharing(policy: str, num_steps: int = 12) -> Scenario:
    """Return a scenario that runs the pipeline under a policy, and gives what it read."""

    async def scenario(trial: Trial) -> list[list[int]]:
        copies = 2 if policy == WarPolicy.ROTATE.value else 1
        pipeline = SharedTable(trial.device, copies, num_steps)
        async with trial.scheduler(pipeline, war_barrier=policy):
            await pipeline.all_published.wait()
        return pipeline.results

    return scenario


def schedules(profile: str, seeds: Iterable[int]) -> list[Schedule]:
    """Return a run per seed; every second one has the strict checker."""
    return [Schedule(seed, profile, "random", is_strict=seed % 2 == 1) for seed in seeds]


@dataclass(frozen=True)
class Cost:
    """One row: a policy on a profile.

    Attributes:
        makespan_ms: virtual milliseconds until all steps were published, median.
        over_off: median of the ratios to the run of the same seed without a barrier.
        reported: runs in which the hazard checker reported something.
        wrong: runs that read what they should not have.
    """

    profile: str
    policy: str
    runs: int
    makespan_ms: float
    over_off: float
    reported: int
    wrong: int


def measure(profile: str, seeds: Sequence[int], num_steps: int = 12) -> list[Cost]:
    """Run all policies on a profile with the same seeds."""
    outcomes = {
        policy: [_run(policy, num_steps, each) for each in schedules(profile, seeds)]
        for policy in POLICIES
    }
    off_s = [outcome.makespan_s for outcome in outcomes["off"]]
    return [_cost(profile, policy, runs, off_s) for policy, runs in outcomes.items()]


def _run(policy: str, num_steps: int, schedule: Schedule) -> Outcome:
    outcome = run_once(sharing(policy, num_steps), schedule)
    if outcome.error is not None:
        raise outcome.error
    return outcome


def _cost(profile: str, policy: str, runs: list[Outcome], off_s: list[float]) -> Cost:
    right = [[number] * _SIZE for number in range(len(runs[0].result))]
    ratios = [run.makespan_s / base_s for run, base_s in zip(runs, off_s, strict=True)]
    return Cost(
        profile,
        policy,
        len(runs),
        round(1e3 * statistics.median(run.makespan_s for run in runs), 3),
        round(statistics.median(ratios), 3),
        sum(bool(run.reports) for run in runs),
        sum(run.result != right for run in runs),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = _parse(arguments)
    for number, profile in enumerate(PROFILES):
        costs = measure(profile, range(options.seeds), options.steps)
        if options.json:
            print("\n".join(json.dumps(asdict(cost)) for cost in costs), flush=True)
            continue
        if number == 0:
            print(f"| profile | {' | '.join(POLICIES)} | off: reported | wrong |")
            print("|---" * (len(POLICIES) + 3) + "|")
        print(_row(profile, {cost.policy: cost for cost in costs}), flush=True)
    return 0


def _row(profile: str, costs: dict[str, Cost]) -> str:
    cells = [f"{costs[policy].makespan_ms:.2f} ({costs[policy].over_off:.2f})" for policy in costs]
    off = costs["off"]
    found = [f"{off.reported} of {off.runs}", f"{off.wrong} of {off.runs}"]
    return f"| `{profile}` | {' | '.join(cells + found)} |"


def _parse(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.barriers", description=__doc__)
    parser.add_argument("--seeds", type=_positive, default=20, help="runs per cell (default 20)")
    parser.add_argument("--steps", type=_positive, default=12, help="steps per run (default 12)")
    parser.add_argument("--json", action="store_true", help="one row per cell, for machines")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
