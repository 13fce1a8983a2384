"""Ranks that take their steps together, each with its own prompts: prefills delayed, or not.

torchrun --nproc-per-node 2 examples/data_parallel.py    a process per rank
python examples/data_parallel.py [number of ranks]       starts them itself
"""

import asyncio
import os
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from aio_sched import SamplingParams, load_model, open_device
from aio_sched.engine.model import ByteTransformer
from aio_sched.parallel import DataParallelEngine, open_rank_group
from aio_sched.parallel.delayer import DelayerLimits
from aio_sched.prompts import PROMPTS
from aio_sched.trace import TraceRecorder
from streams import Device

NUM_REQUESTS, MAX_TOKENS, MAX_RUNNING, PAUSE_S = 10, 12, 4, 0.04
PICTURE = Path("data-parallel.svg")


class Figures(NamedTuple):
    """How one rank did, as integers: those are what ranks can tell each other."""

    tokens: int
    micros: int
    batches: int
    idle_batches: int
    refusals: int
    digest: int
    first_tokens_us: tuple[int, ...]

    def integers(self) -> tuple[int, ...]:
        """Return all of them in a row."""
        return (*self[:-1], *self.first_tokens_us)

    @classmethod
    def of(cls, integers: tuple[int, ...]) -> "Figures":
        """Read what another rank told."""
        tokens, micros, batches, idle, refusals, digest, *waits_us = integers
        return cls(tokens, micros, batches, idle, refusals, digest, tuple(waits_us))


async def serve(
    model: ByteTransformer, device: Device, delay: bool, trace: TraceRecorder
) -> Figures:
    """Continue this rank's prompts, which come one after the other, in step with the others."""
    group = await open_rank_group(name=f"delay={delay}")
    # The first exchange is with ranks that may still load their model.
    await group.gather_info("ready", (), timeout=60.0)
    engine = DataParallelEngine(
        model,
        device,
        group,
        max_running=MAX_RUNNING,
        delayer=DelayerLimits(MAX_RUNNING, enabled=delay, max_passes=8),
        rank_check=True,
        monitors=(trace,),
    )
    first_tokens_us: list[int] = []

    async def continue_text(prompt: str, max_tokens: int) -> int:
        tokens, began_s = 0, time.perf_counter()
        async for _ in engine.generate(prompt, SamplingParams(max_tokens)):
            if not tokens:
                first_tokens_us.append(int((time.perf_counter() - began_s) * 1e6))
            tokens += 1
        return tokens

    async with engine:
        began_s, reading = time.perf_counter(), []
        prompts = islice(cycle(PROMPTS), group.rank, group.rank + NUM_REQUESTS)
        for number, prompt in enumerate(prompts):
            # Ranks whose texts began and ended at the same moments would have nothing to wait for.
            max_tokens = MAX_TOKENS + (5 * number + 3 * group.rank) % 12
            reading.append(asyncio.create_task(continue_text(prompt, max_tokens)))
            await asyncio.sleep(PAUSE_S * (1 + group.rank / 2))
        tokens = sum(await asyncio.gather(*reading))
        micros = int((time.perf_counter() - began_s) * 1e6)
    stats = engine.rank_stats
    return Figures(
        tokens,
        micros,
        stats.batches,
        stats.idle_batches,
        stats.delayer.refusals,
        stats.digest,
        tuple(first_tokens_us),
    )


async def run_rank() -> None:
    """Be one rank: serve with the delayer off and on; rank 0 prints what came of it."""
    everyone = await open_rank_group(name="figures", timeout_s=60.0)
    table = Table("prefill delayer", "tokens/s", "p99 first token", "refusals", "steps", "idle")
    with open_device("cpu") as device:
        model = load_model()
        for delay in (False, True):
            trace = TraceRecorder()
            figures = await serve(model, device, delay, trace)
            rows = await everyone.gather_info("figures", figures.integers())
            table.add_row("on" if delay else "off", *cells(rows))
    if everyone.rank == 0:
        trace.picture(PICTURE, last=6, title="rank 0, delayer on")
        console = Console()
        console.print(f"{everyone.size} ranks, {NUM_REQUESTS} prompts each", table)
        console.print(f"no divergence\npicture {PICTURE}")
    await everyone.aclose()


def cells(rows: tuple[tuple[int, ...], ...]) -> list[str]:
    """Sum up what all ranks told; they must have decided the same."""
    ranks = [Figures.of(row) for row in rows]
    first = ranks[0]
    if any(rank.digest != first.digest for rank in ranks):
        sys.exit(f"the ranks have decided differently: {rows}")
    waits_us = sorted(wait_us for rank in ranks for wait_us in rank.first_tokens_us)
    rate = sum(rank.tokens for rank in ranks) / max(rank.micros for rank in ranks) * 1e6
    idle = "+".join(str(rank.idle_batches) for rank in ranks)
    late_ms = waits_us[int(0.99 * (len(waits_us) - 1))] / 1000
    return [f"{rate:.0f}", f"{late_ms:.0f} ms", str(first.refusals), str(first.batches), idle]


def start_ranks(number: str) -> int:
    """Start this file once per rank, as the ``torchrun`` command does; return its exit code."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # The ranks share this machine's cores.
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    return subprocess.call([*launcher, f"--nproc-per-node={number}", __file__], env=env)


if __name__ == "__main__":
    if "RANK" in os.environ:
        asyncio.run(run_rank())
    else:
        sys.exit(start_ranks(*sys.argv[1:] or ["2"]))
