"""What an exchange between ranks costs the event loop: awaited, against a blocking gather.

Ranks are processes on this machine, over gloo. In each round they make exchanges in both ways,
one after the other: with ``gather_info``, and with ``torch.distributed.all_gather``
called on the loop's thread. With arrival "even" they come as fast as they can; with "uneven"
each first sleeps up to 5 ms, as if its step took longer or shorter than the others'.
"""

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import torch
import torch.distributed as dist

from aio_sched.bench.report import percentiles, print_table, table
from aio_sched.loop_lag import LoopLagMonitor
from aio_sched.parallel import RankGroup, open_rank_group

__all__: list[str] = []

_VALUES = 5
_MOST_LATE_S = 0.005
_FIELDS = ("exchanges/s", "exchange p50 us", "exchange p99 us", "lag p50 us", "lag p99 us")

Gather = Callable[[list[int]], Awaitable[object]]


def _awaited(group: RankGroup) -> Gather:
    async def gather(values: list[int]) -> object:
        return await group.gather_info("bench", values)

    return gather


def _blocking(size: int) -> Gather:
    taken = [torch.zeros(_VALUES, dtype=torch.int64) for _ in range(size)]

    async def gather(values: list[int]) -> object:
        dist.all_gather(taken, torch.tensor(values))
        await asyncio.sleep(0)
        return [row.tolist() for row in taken]

    return gather


async def _measure(gather: Gather, num: int, is_uneven: bool, seed: int) -> list[float]:
    """Make ``num`` exchanges; return one figure for each of ``_FIELDS``."""
    dice, took_s = random.Random(seed), []
    began_s = time.perf_counter()
    async with LoopLagMonitor() as monitor:
        for _ in range(num):
            if is_uneven:
                await asyncio.sleep(dice.uniform(0.001, _MOST_LATE_S))
            asked_s = time.perf_counter()
            await gather([seed] * _VALUES)
            took_s.append(time.perf_counter() - asked_s)
        lag = monitor.summary()
    rate = num / (time.perf_counter() - began_s)
    spread = percentiles(seconds * 1e6 for seconds in took_s)
    return [rate, spread["p50"] or 0.0, spread["p99"] or 0.0, lag.p50_s * 1e6, lag.p99_s * 1e6]


async def _rank(options: argparse.Namespace) -> None:
    """Run one rank; rank 0 prints what it measured, as JSON."""
    group = await open_rank_group(rank=options.rank, size=options.size, address=options.address)
    host, port = options.address.rsplit(":", 1)
    store = dist.TCPStore(host, int(port), wait_for_workers=False)  # type: ignore[attr-defined]
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore("plain", store),  # type: ignore[attr-defined]
        rank=options.rank,
        world_size=options.size,
    )
    ways = {"awaited": _awaited(group), "blocking": _blocking(options.size)}
    rows: list[Any] = []
    for round_number in range(options.rounds + 1):  # the first one is thrown away
        for arrival in ("even", "uneven"):
            for way, gather in ways.items():
                await gather([0] * _VALUES)
                seed = options.rank + 100 * round_number
                figures = await _measure(gather, options.num, arrival == "uneven", seed)
                if round_number:
                    rows.append([arrival, way, figures])
    if options.rank == 0:
        print(json.dumps(rows))
    await group.gather_info("end", [])
    await group.aclose()
    dist.destroy_process_group()


def _run(size: int, options: argparse.Namespace) -> list[Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "benchmarks.rank_groups", "--address", address]
    command += ["--size", str(size), "--num", str(options.num), "--rounds", str(options.rounds)]
    ranks = [
        subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    said = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise RuntimeError(f"ranks ended with {[rank.returncode for rank in ranks]}")
    return list(json.loads(said[0]))


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


def _summary(size: int, rows: list[Any]) -> list[list[str]]:
    cells: dict[tuple[str, str], list[list[float]]] = {}
    for arrival, way, figures in rows:
        cells.setdefault((arrival, way), []).append(figures)
    return [
        [str(size), arrival, way, *(_cell(list(column)) for column in zip(*figures, strict=True))]
        for (arrival, way), figures in cells.items()
    ]


def main() -> None:
    """Print the table: of each cell the median of the rounds, and the lowest and highest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4], help="ranks to run")
    parser.add_argument("--num", type=int, default=300, help="exchanges of each kind in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is not None:
        asyncio.run(_rank(options))
        return
    rows = [row for size in options.sizes for row in _summary(size, _run(size, options))]
    columns = ("ranks", "arrival", "gather", *_FIELDS)
    print_table(
        table("exchanges between ranks on this machine, as rank 0 sees them", columns, rows)
    )


if __name__ == "__main__":
    main()
