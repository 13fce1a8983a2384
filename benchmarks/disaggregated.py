"""How long running texts wait for their next token while long prompts are read.

    python -m benchmarks.disaggregated [rounds]

Three texts run; a prompt of some 300 bytes comes every 150 ms, wants two tokens, and is read in
chunks. Beside each other, in turns: one engine that puts a decode step between two chunks, the same
with two torch threads (so that it may use both cores, too), and two processes with a hand-over, a
core for each. Figures are the medians of the rounds, with the least and the most behind them. A
column says how many long prompts were done, because not reading them would be the easiest way to be
quick; the last one is how late the loop ran that takes requests, hand-overs included.

Expected before the first run: in one engine a gap is a decode step and, half of the time or more,
a prefill of a chunk; so its median is their sum, and that of two processes is a decode step, some
three times less. The 99th percentile gains more than the median only if prefills queue up. Two
cores that share a cache and a memory bus keep it from being as good as without prompts at all.
"""

import asyncio
import statistics
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from aio_sched.bench.report import percentiles, print_table, show_progress, table
from aio_sched.disaggregated import DecodeWorker, DisaggregatedEngine, connect_link
from aio_sched.engine.engine import Engine
from aio_sched.engine.requests import SamplingParams
from aio_sched.engine.text_engine import TextEngine
from aio_sched.engine.weights import load_model
from aio_sched.loop_lag import LoopLagMonitor
from streams.clock import perf_s
from streams.device import open_device

_SHORT = [b"The with statement is used to", b"A generator function is", b"If the class has a"]
_LONG = b"An expression is evaluated from left to right. " * 6 + b"Names"
_NUM_LONG, _EVERY_S = 14, 0.15
_TOKENS = 240
_MAX_RUNNING = 8


class Figures(NamedTuple):
    """One round, in milliseconds but for the count."""

    gap_p50: float
    gap_p99: float
    gap_max: float
    long_p50: float
    num_long: int
    lag_p99: float


async def _run(engine: TextEngine[Any], *, with_long: bool) -> Figures:
    gaps_ms: list[float] = []
    long_ms: list[float] = []

    async def run(prompt: bytes, seed: int) -> None:
        params = SamplingParams(max_tokens=_TOKENS, temperature=0.8, seed=seed)
        times_s = [perf_s() async for _ in engine.generate(prompt, params)]
        gaps_ms.extend((b - a) * 1e3 for a, b in pairwise(times_s[2:]))

    async def read_long(seed: int) -> None:
        began_s = perf_s()
        async for _ in engine.generate(_LONG, SamplingParams(max_tokens=2, seed=seed)):
            long_ms.append((perf_s() - began_s) * 1e3)
            break

    async with LoopLagMonitor() as lag, asyncio.TaskGroup() as group:
        running = [group.create_task(run(prompt, n)) for n, prompt in enumerate(_SHORT)]
        for number in range(_NUM_LONG if with_long else 0):
            await asyncio.sleep(_EVERY_S)
            if all(task.done() for task in running):
                break
            group.create_task(read_long(number))
        await asyncio.wait(running)
        num_long = len(long_ms)
    gaps = percentiles(gaps_ms)
    return Figures(
        gaps["p50"] or 0.0,
        gaps["p99"] or 0.0,
        gaps["max"] or 0.0,
        statistics.median(long_ms) if long_ms else 0.0,
        num_long,
        lag.summary().as_ms()["p99"],
    )


@asynccontextmanager
async def _together(threads: int) -> AsyncIterator[TextEngine[Any]]:
    with open_device("cpu", threads=threads) as device:
        async with Engine(load_model(), device, max_running=_MAX_RUNNING) as engine:
            yield engine


@asynccontextmanager
async def _apart() -> AsyncIterator[TextEngine[Any]]:
    with TemporaryDirectory() as folder, open_device("cpu") as device:
        command = [sys.executable, "-m", __spec__.name, "decode", f"unix:{folder}/link"]
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            link = await connect_link((await process.stdout.readline()).decode().strip())
            async with DisaggregatedEngine(load_model(), device, link) as engine:
                yield engine
        finally:
            process.stdin.close()
            await process.wait()


async def _decode(address: str) -> None:
    with open_device("cpu") as device:
        async with DecodeWorker(load_model(), device, max_running=_MAX_RUNNING) as worker:
            serving = asyncio.create_task(
                worker.serve_at(address, on_listening=lambda at: print(at, flush=True))
            )
            await asyncio.to_thread(sys.stdin.read)
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving


_SIDES: dict[str, Callable[[], AbstractAsyncContextManager[TextEngine[Any]]]] = {
    "one engine": partial(_together, 1),
    "one engine, two threads": partial(_together, 2),
    "two processes": _apart,
}


async def main(rounds: str = "5") -> None:
    """Run all in turns, and print one table."""
    measured: dict[tuple[str, bool], list[Figures]] = {}
    for number in range(int(rounds)):
        for name, opened in _SIDES.items():
            show_progress(f"round {number + 1}: {name}")
            async with opened() as engine:
                await _run(engine, with_long=True)  # warms up
                for with_long in (False, True):
                    figures = await _run(engine, with_long=with_long)
                    measured.setdefault((name, with_long), []).append(figures)
    rows = [
        [name, "yes" if with_long else "no", *map(_spread, zip(*all_figures, strict=True))]
        for (name, with_long), all_figures in measured.items()
    ]
    columns = ["", "long prompts", "next token p50, ms", "p99", "max"]
    columns += ["first token of long", "long done", "loop lag p99"]
    title = f"three running texts, {rounds} rounds, median (least to most)"
    print_table(table(title, columns, rows))


def _spread(values: tuple[float, ...]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["decode"]:
        asyncio.run(_decode(sys.argv[2]))
    else:
        asyncio.run(main(*sys.argv[1:]))
