"""``aio-sched bench bridge``: how late a coroutine wakes, and what waiting costs.

An emulated accelerator completes events at known moments (``emulated.py``), so the
wake latency is exact: when the coroutine runs again, minus when the event was done.
Each cell of the table is measured in several short runs, taken in turns with the
runs of all other policies of the same configuration, each on an event loop of its
own: first wake latency and CPU, then, beside a ticker, the loop's lag.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict

import uvloop
from rich.table import Table

from aio_sched.bench.emulated import TimedDevice
from aio_sched.bench.report import Percentiles, percentiles, print_table, show_progress, table
from aio_sched.bench.rivals import RIVALS, BridgeRival, Rival
from aio_sched.bench.wake import Config, Samples, WakeRun

__all__ = ["CONFIGS", "LOOPS", "POLICIES", "BridgeRow", "Config", "bridge_table", "run_bridge"]


class BridgeRow(TypedDict):
    """One row of the result.

    Without waiters (an idle bridge) and without a bridge (``none``: the ticker alone)
    there is no wake latency, and its figures are None.
    """

    policy: str
    loop: str
    waiters: int
    streams: int
    interval_ms: float
    wake_us: Percentiles
    cpu_percent: float
    loop_lag_ms: Percentiles


CONFIGS = tuple(Config.parse(text) for text in ("8/4/5", "64/16/20", "1024/16/5", "10000/4/1"))
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
_BRIDGES = ("auto", "low_latency", "thread", "spin")
POLICIES = ("none", *_BRIDGES, *RIVALS)
"""Rows in the table's order; ``none`` is the loop with nothing but the ticker."""


@dataclass(frozen=True)
class _Cell:
    """One row while it is measured."""

    policy: str
    loop: str
    config: Config
    samples: Samples = field(default_factory=Samples)

    def run(self, seconds: float, jitter: float, seed: int) -> None:
        device = TimedDevice(self.config.interval_ms, jitter=jitter, seed=seed)
        run = WakeRun(self.config, device, _rival(self.policy), seconds, self.samples)
        with asyncio.Runner(loop_factory=LOOPS[self.loop]) as runner:
            runner.run(run.measure())

    def row(self) -> BridgeRow:
        return {
            "policy": self.policy,
            "loop": self.loop,
            "waiters": self.config.waiters,
            "streams": self.config.streams,
            "interval_ms": self.config.interval_ms,
            "wake_us": percentiles((ns / 1e3 for ns in self.samples.wake_ns), 1),
            "cpu_percent": self.samples.cpu_percent,
            "loop_lag_ms": percentiles((s * 1e3 for s in self.samples.lag_s), 4),
        }


def _rival(policy: str) -> Callable[[], Rival] | None:
    if policy == "none":
        return None
    return partial(BridgeRival, policy) if policy in _BRIDGES else RIVALS[policy]


def run_bridge(
    *,
    policies: Sequence[str] = POLICIES,
    loops: Sequence[str] = tuple(LOOPS),
    configs: Sequence[Config] = CONFIGS,
    seconds: float = 1.8,
    rounds: int = 3,
    jitter: float = 0.02,
    json: bool = False,
) -> list[BridgeRow]:
    """Measure, and return one row per policy, loop and configuration.

    Args:
        policies: which rows, out of ``POLICIES``.
        loops: ``"asyncio"``, ``"uvloop"`` or both.
        configs: the loads; rows without waiters (an idle bridge that has served
            before) are added for the bridge's policies.
        seconds: measured time per row.
        rounds: runs per row, each round in another order.
        jitter: standard deviation of the emulated intervals, as a share of them.
        json: print nothing; without it progress goes to stderr and the table to
            stdout.

    Raises:
        ValueError: an unknown policy or loop, or nothing to measure.
    """
    _check("policy", policies, POLICIES)
    _check("loop", loops, LOOPS)
    if seconds <= 0 or rounds < 1 or jitter < 0:
        raise ValueError(
            f"seconds={seconds}, rounds={rounds}, jitter={jitter}: "
            "need seconds > 0, rounds >= 1, jitter >= 0"
        )
    cells = list(_cells(policies, loops, configs))
    for round_, cell in _in_turns(cells, rounds):
        if not json:
            show_progress(f"{cell.config} {cell.loop} {cell.policy}")
        cell.run(seconds / rounds, jitter, seed=round_)
    rows = [cell.row() for cell in cells]
    if not json:
        show_progress("")
        print_table(bridge_table(rows, jitter))
    return rows


def _check(kind: str, chosen: Iterable[str], known: Iterable[str]) -> None:
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"{kind} {unknown[0]!r} is unknown; use one of {', '.join(known)}")


def _cells(
    policies: Sequence[str], loops: Sequence[str], configs: Sequence[Config]
) -> Iterator[_Cell]:
    for config in configs:
        for loop in loops:
            for policy in policies:
                yield _Cell(policy, loop, config)
    for loop in loops:
        for policy in policies:
            if policy in _BRIDGES:
                yield _Cell(policy, loop, Config(0, 4, 1.0))


def _in_turns(cells: Sequence[_Cell], rounds: int) -> Iterator[tuple[int, _Cell]]:
    """Order the runs so that the host's moods meet all policies of a load alike."""
    for config in dict.fromkeys(cell.config for cell in cells):
        group = [cell for cell in cells if cell.config == config]
        for round_ in range(rounds):
            shift = round_ * len(group) // rounds
            for cell in group[shift:] + group[:shift]:
                yield round_, cell


def bridge_table(rows: Sequence[BridgeRow], jitter: float) -> Table:
    """Render rows, with the method in the header."""
    title = (
        "Waiting for device events. Load: waiters/streams/interval in ms on an emulated "
        f"accelerator (intervals vary by {jitter:.0%},\na query costs 1 us and holds the GIL). "
        "The policies of a load run in turns. CPU: of the process, 100 % is one core.\n"
        "Lag: of a 1 ms ticker beside the load; policy none is the ticker alone"
    )
    wake, lag = ("wake us: p50", "p99", "max"), ("lag ms: p50", "p99", "max")
    columns = ("load", "loop", "policy", *wake, "CPU %", *lag)
    return table(title, columns, (_line(row) for row in rows))


def _line(row: BridgeRow) -> tuple[object, ...]:
    wake, lag = row["wake_us"], row["loop_lag_ms"]
    load = str(Config(row["waiters"], row["streams"], row["interval_ms"]))
    return (
        load if row["waiters"] else "idle",
        row["loop"],
        row["policy"],
        *(wake["p50"], wake["p99"], wake["max"]),
        row["cpu_percent"],
        *(lag["p50"], lag["p99"], lag["max"]),
    )
