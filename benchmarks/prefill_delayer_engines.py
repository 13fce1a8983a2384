"""What the prefill delayer brings to real engines, with the costs of ``prefill_delayer``.

    python -m benchmarks.prefill_delayer_engines [--seeds 2] [--ranks 2 4] [--rates 4 12] [--json]

Each rank is a ``DataParallelEngine`` with an overlapped scheduler on a simulated device of its
own. A step takes on every rank as long as on the slowest one, as if collectives inside of the
model held the ranks together: what the ranks exchange says how long that is.
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
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from aio_sched.bench.report import print_table, show_progress, table
from aio_sched.engine.model import ByteTransformer, ModelConfig
from aio_sched.engine.requests import Request, SamplingParams
from aio_sched.parallel.delayer import DelayerLimits
from aio_sched.parallel.engine import DataParallelEngine
from aio_sched.parallel.global_batch import Mode, RankState
from aio_sched.parallel.group import RankGroup
from aio_sched.parallel.in_process import InProcessRanks
from aio_sched.testing import SimProfile, virtual_run
from benchmarks.prefill_delayer import COSTS
from benchmarks.prefill_delayer_report import COLUMNS, Figures, cells, p99
from streams.clock import perf_s
from streams.device import open_device

__all__ = ["VARIANTS", "main", "serve"]

_MODEL = ModelConfig(d_model=16, num_layers=1, num_heads=2, d_hidden=32, max_len=192)
_MAX_RUNNING = 8
_CHUNK = 64
# A prompt has an eighth of the tokens that it has there, and costs the same.
_TOKEN_MS = 8 * COSTS.token_ms


def _limits(**settings: Any) -> DelayerLimits:
    return DelayerLimits(_MAX_RUNNING, **settings)


VARIANTS: dict[str, DelayerLimits] = {
    "off": _limits(),
    "on": _limits(enabled=True),
    "on, upstream": _limits(enabled=True, delay_resumed=True, delay_idle=True),
    "8 passes": _limits(enabled=True, max_passes=8),
    "watermark": _limits(enabled=True, low_watermark=0.5),
    "queue": _limits(enabled=True, queue_ratio=0.4, max_prefill=4),
}


@dataclass(frozen=True)
class _GroupCosts(SimProfile):
    """A device whose forwards take what the group's step takes, in milliseconds."""

    forwards_ms: deque[float] = field(default_factory=deque)

    def draw_ns(self, dice: random.Random, stage: str | None, label: str) -> int:
        if stage == "forward" and label.endswith(("_run_prefill", "_run_decode")):
            return round(self.forwards_ms.popleft() * 1e6)
        return super().draw_ns(dice, stage, label)

    def follow(self, group: RankGroup) -> None:
        """Learn from what is exchanged how long the next step takes; let the exchange take time."""
        gather_info = group.gather_info

        async def noted(
            kind: str, values: Sequence[int], *, timeout: float | None = None
        ) -> tuple[tuple[int, ...], ...]:
            rows = await gather_info(kind, values, timeout=timeout)
            await asyncio.sleep(COSTS.exchange_ms / 1e3)
            if kind == "batch":
                states = [RankState(*row[: len(RankState._fields)]) for row in rows]
                if any(state.mode for state in states):
                    self.forwards_ms.append(max(map(_cost_ms, states)))
            return rows

        group.gather_info = noted  # type: ignore[method-assign]  # to look on


def _cost_ms(state: RankState) -> float:
    per_token_ms = _TOKEN_MS if state.mode == Mode.PREFILL else COSTS.row_ms
    return COSTS.step_ms + per_token_ms * state.tokens


@dataclass
class _Job:
    arrival_s: float
    request: Request
    first_s: float = 0.0
    last_s: float = 0.0


def serve(ranks: int, rate: float, requests: int, limits: DelayerLimits, seed: int) -> Figures:
    """Serve the same prompts for a seed, whatever the limits, in virtual time."""
    work = _serve(ranks, rate, requests, limits, seed)
    return virtual_run(work, seed=seed, max_steps=50_000_000)


async def _serve(
    num_ranks: int, rate: float, requests: int, limits: DelayerLimits, seed: int
) -> Figures:
    groups = InProcessRanks(num_ranks, timeout_s=600.0).groups
    with ExitStack() as devices:
        ranks = []
        for group in groups:
            profile = _GroupCosts("group_costs")
            profile.follow(group)
            device = devices.enter_context(open_device("sim", seed=seed, profile=profile))
            options: dict[str, Any] = {"prefill_rows": 4, "chunk": _CHUNK, "delayer": limits}
            engine = DataParallelEngine(
                _model(), device, group, max_running=_MAX_RUNNING, **options
            )
            ranks.append(_rank(engine, rate, requests, random.Random(f"{seed}/{group.rank}")))
        done, refused = zip(*await asyncio.gather(*ranks), strict=True)
    return _figures([job for jobs in done for job in jobs], refused[0])


def _model() -> ByteTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ByteTransformer(_MODEL).requires_grad_(False)


async def _rank(
    engine: DataParallelEngine, rate: float, requests: int, dice: random.Random
) -> tuple[list[_Job], float]:
    """Return the jobs of a rank, and the share of passes that were refused."""
    readers: list[asyncio.Task[_Job]] = []
    async with engine:
        for _ in range(requests):
            await asyncio.sleep(dice.expovariate(rate))
            prompt = bytes(dice.randint(1, 255) for _ in range(dice.randint(32, 96)))
            request = engine.submit(prompt, SamplingParams(dice.randint(24, 72)))
            readers.append(asyncio.create_task(_read(engine, request)))
        done = await asyncio.gather(*readers)
        stats = engine.rank_stats.delayer
    return done, stats.refusals / max(1, stats.passes)


async def _read(engine: DataParallelEngine, request: Request) -> _Job:
    job = _Job(perf_s(), request)
    async for _ in engine.stream(request):
        job.first_s = job.first_s or perf_s()
        job.last_s = perf_s()
    return job


def _figures(done: Sequence[_Job], refused: float) -> Figures:
    texts = [job for job in done if len(job.request.output) > 1]
    ttft_ms = [1e3 * (job.first_s - job.arrival_s) for job in texts]
    tpot_ms = [1e3 * (job.last_s - job.first_s) / (len(job.request.output) - 1) for job in texts]
    num_tokens = sum(len(job.request.output) for job in done)
    return Figures(
        num_tokens / max(job.last_s for job in done),
        statistics.median(ttft_ms),
        p99(ttft_ms),
        statistics.median(tpot_ms),
        refused,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all variants on all loads, and print medians over the seeds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prefill_delayer_engines")
    parser.add_argument("--seeds", type=int, default=2, help="runs per row (default 2)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rates", type=float, nargs="+", default=[4.0, 12.0])
    parser.add_argument("--requests", type=int, default=24, help="per rank (default 24)")
    parser.add_argument("--json", action="store_true", help="one line per run, for machines")
    options = parser.parse_args(arguments)
    rows = []
    for ranks, rate in itertools.product(options.ranks, options.rates):
        runs: dict[str, list[Figures]] = {name: [] for name in VARIANTS}
        for seed, name in itertools.product(range(options.seeds), VARIANTS):
            show_progress(f"{ranks} engines, {rate:g} prompts/s each, seed {seed}: {name}")
            figures = serve(ranks, rate, options.requests, VARIANTS[name], seed)
            runs[name].append(figures)
            if options.json:
                run = {"ranks": ranks, "rate": rate, "variant": name, "seed": seed}
                print(json.dumps(run | asdict(figures)), flush=True)
        rows += [[ranks, rate, name, *cells(runs[name], runs["off"])] for name in VARIANTS]
    if not options.json:
        print_table(table("prefill delayer in engines, virtual time", COLUMNS, rows))
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
