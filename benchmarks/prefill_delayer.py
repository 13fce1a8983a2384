"""What delaying prefills brings to ranks that take their steps together, and what it costs.

    python -m benchmarks.prefill_delayer [--seeds 5] [--ranks 2 4 8] [--rates 1 4 12] [--json]

Each rank serves prompts of its own, prefill first, as an engine does: a pass asks the delayer,
then all ranks exchange what they run, and the step takes as long as the slowest rank's. The
delayer and its exchanges are the real ones, over an in-process group; times are virtual, from
the costs below. Every exchange costs its part too, and the delayer makes one more per pass.

What a prefill costs the ranks that decode meanwhile is an assumption here (all of it: they
wait). How much of it is true is a matter of the model and of the devices.
"""

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from aio_sched.bench.report import print_table, show_progress, table
from aio_sched.parallel.delayer import DelayerLimits
from aio_sched.parallel.group import RankGroup
from aio_sched.parallel.in_process import InProcessRanks
from aio_sched.parallel.prefill_delayer import PrefillDelayer, RankLoad
from aio_sched.testing import virtual_run
from benchmarks.prefill_delayer_report import COLUMNS, Figures, cells, p99
from streams.clock import perf_s

__all__ = ["COSTS", "VARIANTS", "Costs", "Load", "main", "serve"]

_PREFILL_TOKENS = 4096
_MAX_RUNNING = 32
_NEVER_US = 1 << 62


@dataclass(frozen=True)
class Costs:
    """How long the work of one rank takes, in milliseconds.

    Attributes:
        step_ms: any step.
        row_ms: each request that decodes.
        token_ms: each token of a prompt.
        exchange_ms: each exchange between the ranks.
    """

    step_ms: float = 8.0
    row_ms: float = 0.05
    token_ms: float = 0.08
    exchange_ms: float = 0.1


COSTS = Costs()


def _limits(**settings: Any) -> DelayerLimits:
    return DelayerLimits(_MAX_RUNNING, **settings)


VARIANTS: dict[str, DelayerLimits] = {
    "off": _limits(),
    "on": _limits(enabled=True),
    "8 passes": _limits(enabled=True, max_passes=8),
    "watermark": _limits(enabled=True, low_watermark=0.5),
    "queue": _limits(enabled=True, queue_ratio=0.25, max_prefill=8),
}


@dataclass(frozen=True)
class Load:
    """What arrives.

    Attributes:
        ranks: of the group.
        rate: prompts per second and rank, at random moments.
        requests: of each rank.
        prompt: tokens of a prompt; half to one and a half times that.
        text: tokens of a text, likewise.
    """

    ranks: int
    rate: float
    requests: int = 60
    prompt: int = 512
    text: int = 128


@dataclass
class Job:
    """A request: a prompt to prefill, then tokens to decode."""

    arrival_s: float
    prompt: int
    text: int
    first_s: float = 0.0
    last_s: float = 0.0
    written: int = 0


@dataclass
class Rank:
    """One rank of the service.

    Attributes:
        jobs: yet to arrive, in order.
        done: ended.
    """

    group: RankGroup
    delayer: PrefillDelayer
    jobs: deque[Job]
    waiting: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)

    async def serve(self) -> None:
        """Make passes until no rank has anything left."""
        while True:
            self._arrive()
            prefill = await self._negotiate()
            cost_ms, at_us, is_done = await self._exchange(prefill)
            if is_done:
                return
            if cost_ms > 0:
                await asyncio.sleep(cost_ms / 1e3)
                self._advance(prefill)
            else:
                await asyncio.sleep(max(0.0, at_us / 1e6 - perf_s()))

    def _arrive(self) -> None:
        while self.jobs and self.jobs[0].arrival_s <= perf_s():
            self.waiting.append(self.jobs.popleft())

    async def _negotiate(self) -> list[Job]:
        """Return the prompts to prefill in this pass."""
        free = _MAX_RUNNING - len(self.running)
        load = RankLoad(len(self.running), len(self.waiting), 1 - free / _MAX_RUNNING)
        prefill: list[Job] = []
        async with self.delayer.single_pass(load) as turn:
            if self.waiting and free and await turn.negotiate():
                prefill = self._take(free)
                turn.prefilled = len(prefill)
        if self.delayer.limits.enabled:
            await asyncio.sleep(COSTS.exchange_ms / 1e3)
        return prefill

    def _take(self, free: int) -> list[Job]:
        tokens = itertools.accumulate(job.prompt for job in self.waiting)
        fitting = sum(1 for total in tokens if total <= _PREFILL_TOKENS)
        return [self.waiting.popleft() for _ in range(min(free, max(1, fitting)))]

    async def _exchange(self, prefill: list[Job]) -> tuple[float, int, bool]:
        """Return how long the group's step takes, when the next job comes, and if it is over."""
        next_us = round(self.jobs[0].arrival_s * 1e6) + 1 if self.jobs else _NEVER_US
        is_done = not (self.jobs or self.waiting or self.running or prefill)
        own = (round(self._cost_ms(prefill) * 1e3), next_us, int(is_done))
        rows = await self.group.gather_info("step", own)
        await asyncio.sleep(COSTS.exchange_ms / 1e3)
        costs_us, nexts_us, dones = zip(*rows, strict=True)
        return max(costs_us) / 1e3, min(nexts_us), all(dones)

    def _cost_ms(self, prefill: list[Job]) -> float:
        if prefill:
            return COSTS.step_ms + COSTS.token_ms * sum(job.prompt for job in prefill)
        return COSTS.step_ms + COSTS.row_ms * len(self.running) if self.running else 0.0

    def _advance(self, prefill: list[Job]) -> None:
        """Note what the step has written: a prefill writes first tokens, else all write one."""
        for job in prefill or self.running:
            job.written += 1
            job.last_s = perf_s()
        for job in prefill:
            job.first_s = perf_s()
        at_work = [*self.running, *prefill]
        self.running = [job for job in at_work if job.written < job.text]
        self.done += [job for job in at_work if job.written >= job.text]


def serve(load: Load, limits: DelayerLimits, seed: int) -> Figures:
    """Serve a load in virtual time; the same jobs for a seed, whatever the limits."""
    return virtual_run(_serve(load, limits, seed), seed=seed, max_steps=50_000_000)


async def _serve(load: Load, limits: DelayerLimits, seed: int) -> Figures:
    dice = random.Random(seed)
    groups = InProcessRanks(load.ranks, timeout_s=3600.0).groups
    ranks = [Rank(group, PrefillDelayer(group, limits), _jobs(load, dice)) for group in groups]
    await asyncio.gather(*(rank.serve() for rank in ranks))
    done = [job for rank in ranks for job in rank.done]
    assert len(done) == load.ranks * load.requests, "a request was lost"
    ttft_ms = [1e3 * (job.first_s - job.arrival_s) for job in done]
    tpot_ms = [1e3 * (job.last_s - job.first_s) / (job.text - 1) for job in done]
    stats = ranks[0].delayer.stats
    return Figures(
        sum(job.text for job in done) / max(job.last_s for job in done),
        statistics.median(ttft_ms),
        p99(ttft_ms),
        statistics.median(tpot_ms),
        stats.refusals / max(1, stats.passes),
    )


def _jobs(load: Load, dice: random.Random) -> deque[Job]:
    def about(tokens: int) -> int:
        return dice.randint(tokens // 2, tokens + tokens // 2)

    gaps_s = (dice.expovariate(load.rate) for _ in range(load.requests))
    arrivals_s = itertools.accumulate(gaps_s)
    return deque(Job(at_s, about(load.prompt), about(load.text)) for at_s in arrivals_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all variants on all loads, and print medians over the seeds."""
    options = _parse(arguments)
    rows = []
    for ranks, rate in itertools.product(options.ranks, options.rates):
        load = Load(ranks, rate, options.requests)
        runs: dict[str, list[Figures]] = {name: [] for name in VARIANTS}
        for seed, name in itertools.product(range(options.seeds), VARIANTS):
            show_progress(f"{ranks} ranks, {rate:g} prompts/s each, seed {seed}: {name}")
            runs[name].append(serve(load, VARIANTS[name], seed))
        for name, figures in runs.items():
            if options.json:
                for seed, each in enumerate(figures):
                    print(
                        json.dumps({**asdict(load), "variant": name, "seed": seed} | asdict(each))
                    )
            rows.append([ranks, rate, name, *cells(figures, runs["off"])])
    if not options.json:
        print_table(table("prefill delayer, virtual time", COLUMNS, rows))
    return 0


def _parse(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prefill_delayer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=_positive, default=5, help="runs per row (default 5)")
    parser.add_argument("--ranks", type=_positive, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 4.0, 12.0])
    parser.add_argument("--requests", type=_positive, default=60, help="per rank (default 60)")
    parser.add_argument("--json", action="store_true", help="one line per run, for machines")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main())
