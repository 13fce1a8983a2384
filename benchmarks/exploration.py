"""How many schedules are explored per second, and what watching costs.

    python -m benchmarks.exploration [--json] [--rounds N] [--runs N]

Counts CPU time of one core, so that a busy machine makes it longer but not by much. All variants
run in turns, with the same seeds; figures are medians over the rounds.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aio_sched import HostCopy, Inbox, Launch, Pipeline, StagingRing, Step
from aio_sched.engine.engine import Engine
from aio_sched.engine.model import ByteTransformer, ModelConfig
from aio_sched.engine.requests import SamplingParams
from aio_sched.testing.command import quiet
from aio_sched.testing.schedule import Schedule
from aio_sched.testing.trial import Scenario, Trial, run_once
from streams.device import Device, open_device
from streams.hazards import HazardChecker
from streams.monitor import DeviceMonitor

__all__ = ["SCENARIOS", "WATCHES", "launch_rows", "main", "rate_rows"]

_BATCH = 4
_NUM_LAUNCHES = 200


class _Squares(Pipeline[Launch[Tensor], HostCopy]):
    """An inbox, uploads by staging, one launch and one copy a step."""

    def __init__(self, device: Device) -> None:
        self.inbox: Inbox[int, int] = Inbox(self.wake)
        self.staging = StagingRing(device, (_BATCH,), torch.int64, depth=3)

    async def prepare(self, step: Step) -> Launch[Tensor] | None:
        numbers = self.inbox.take(step, _BATCH)
        return self.staging.upload(step.schedule_stream, numbers) if numbers else None

    async def forward(self, step: Step, inputs: Launch[Tensor]) -> HostCopy:
        return step.copy_to_host(step.launch(torch.square, inputs))

    async def publish(self, step: Step, inputs: Launch[Tensor], output: HostCopy) -> None:
        self.inbox.answer(step, (await output).tolist())


async def squares(trial: Trial) -> list[int]:
    """Twenty askers at once, five steps or so."""
    pipeline = _Squares(trial.device)
    async with trial.scheduler(pipeline):
        return await asyncio.gather(*map(pipeline.inbox.ask, range(20)))


class _Table(Pipeline[int, HostCopy]):
    """Prepare writes a table that forward reads; the WAR barrier keeps them apart."""

    def __init__(self) -> None:
        self.table = torch.zeros(64, dtype=torch.int64)
        self.left = list(range(1, 13))
        self.seen: list[int] = []
        self.is_over = asyncio.Event()

    async def prepare(self, step: Step) -> int | None:
        if not self.left:
            return None
        step.launch(self.table.fill_, self.left[0], writes=[self.table])
        return self.left.pop(0)

    async def forward(self, step: Step, inputs: int) -> HostCopy:
        seen = step.launch(self.table.clone, reads=[self.table])
        step.shared_read_done()
        return step.copy_to_host(seen)

    async def publish(self, step: Step, inputs: int, output: HostCopy) -> None:
        self.seen.append(int((await output)[0]))
        if self.seen[-1] == 12:
            self.is_over.set()


async def table(trial: Trial) -> list[int]:
    """Twelve steps."""
    pipeline = _Table()
    async with trial.scheduler(pipeline):
        await pipeline.is_over.wait()
    return pipeline.seen


async def engine(trial: Trial) -> list[str]:
    """The engine with a tiny model: three requests, two slots."""
    torch.manual_seed(0)
    config = ModelConfig(d_model=16, num_layers=2, num_heads=2, d_hidden=32, max_len=64)
    model = ByteTransformer(config).requires_grad_(False)
    params = SamplingParams(max_tokens=4)
    async with Engine(model, trial.device, max_running=2, chunk=4, overlap=trial.overlap) as texts:
        return await asyncio.gather(*(texts.complete(prompt, params) for prompt in "abc"))


SCENARIOS: dict[str, Scenario] = {"squares": squares, "table": table, "engine": engine}


class Watch(NamedTuple):
    """Which checker watches: none, the default one, or the strict one."""

    check: bool
    is_strict: bool = False


WATCHES = {"none": Watch(False), "default": Watch(True), "strict": Watch(True, True)}


def _cpu_s(work: Callable[[], object]) -> float:
    started_s = time.process_time()
    work()
    return time.process_time() - started_s


def _explore(scenario: Scenario, watch: Watch, seeds: range) -> None:
    for seed in seeds:
        schedule = Schedule(seed, "random", "random", is_strict=watch.is_strict)
        outcome = run_once(scenario, schedule, check=watch.check)
        if outcome.error is not None or outcome.reports or outcome.left_behind:
            raise RuntimeError(f"{schedule} went wrong: {outcome}") from outcome.error


def rate_rows(*, rounds: int, runs: int) -> list[dict[str, Any]]:
    """Measure each scenario under each checker; one row each.

    Args:
        rounds: in which each variant has one turn.
        runs: schedules per turn.
    """
    rows = []
    for name, scenario in SCENARIOS.items():
        _explore(scenario, WATCHES["strict"], range(2))  # imports, and torch's first calls
        spent: dict[str, list[float]] = {watch: [] for watch in WATCHES}
        for number in range(rounds):
            seeds = range(number * runs, (number + 1) * runs)
            for watch, settings in _turned(list(WATCHES.items()), number):
                spent[watch].append(_cpu_s(partial(_explore, scenario, settings, seeds)))
        rows += [
            {
                "scenario": name,
                "checker": watch,
                "schedules": rounds * runs,
                "schedules_per_cpu_s": runs / statistics.median(spent[watch]),
                "factor": _median_ratio(spent[watch], spent["none"]),
            }
            for watch in WATCHES
        ]
    return rows


def launch_rows(*, rounds: int) -> list[dict[str, Any]]:
    """Measure what one launch takes from its caller, by who watches the device.

    The row ``branch`` is what a device pays that nobody watches: asking, once, whether anybody
    does. The row ``idle`` has a monitor that does nothing.
    """
    spent: dict[str, list[float]] = {"branch": [], "none": [], "idle": [], "default": []}
    for number in range(rounds):
        for watch, times in _turned(list(spent.items()), number):
            times.append(_branch_us() if watch == "branch" else _launch_us(watch))
    return [
        {
            "watched_by": watch,
            "rounds": rounds,
            "us": statistics.median(times),
            "factor": _median_ratio(times, spent["none"]),
        }
        for watch, times in spent.items()
    ]


def _launch_us(watch: str) -> float:
    with open_device("sim", profile="friendly") as device:
        stream = device.stream("launches")
        if watch != "none":
            device.add_monitor(HazardChecker() if watch == "default" else DeviceMonitor())
        cpu_s = _cpu_s(lambda: [stream.launch(_nothing) for _ in range(_NUM_LAUNCHES)])
        stream.synchronize()
    return 1e6 * cpu_s / _NUM_LAUNCHES


def _branch_us() -> float:
    with open_device("sim") as device:
        times = 100 * _NUM_LAUNCHES

        def asks() -> None:
            for _ in range(times):
                for _monitor in device.monitors:
                    raise AssertionError("nobody watches")

        def turns() -> None:
            for _ in range(times):
                pass

        return 1e6 * max(0.0, _cpu_s(asks) - _cpu_s(turns)) / times


def _nothing() -> None:
    """Do nothing."""


def _turned(items: list[Any], number: int) -> list[Any]:
    """Begin with another one each time."""
    first = number % len(items)
    return items[first:] + items[:first]


def _median_ratio(ours: list[float], theirs: list[float]) -> float:
    """Compare round by round: what slowed both down does not count."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def _print(rates: list[dict[str, Any]], launches: list[dict[str, Any]]) -> None:
    print("scenario  checker   schedules per CPU second   factor")
    for row in rates:
        print(
            f"{row['scenario']:9} {row['checker']:9} {row['schedules_per_cpu_s']:16.0f}"
            f"          {row['factor']:6.2f}"
        )
    print("\nwatched by   us a launch   factor")
    for row in launches:
        print(f"{row['watched_by']:12} {row['us']:9.3f}   {row['factor']:8.3f}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: more would wait for each other longer than small tensors take."""
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exploration")
    parser.add_argument("--json", action="store_true", help="print one row a line for machines")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each variant")
    parser.add_argument("--runs", type=int, default=20, help="schedules in each turn")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.runs < 1:
        parser.error("--rounds and --runs must be at least 1")
    with quiet(), _one_thread():
        rates = rate_rows(rounds=options.rounds, runs=options.runs)
        launches = launch_rows(rounds=options.rounds * 5)
    if options.json:
        print("\n".join(json.dumps(row) for row in (*rates, *launches)))
    else:
        _print(rates, launches)
    return 0


if __name__ == "__main__":
    sys.exit(main())
