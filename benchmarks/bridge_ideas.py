"""Ideas for the polling bridge, each measured beside the bridge as it would be without it.

    python -m benchmarks.bridge_ideas [--seconds 6] [--rounds 6] [--loop uvloop] [idea ...]

``docs/experiments.md`` has the predictions and the outcomes.
"""

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from aio_sched.bench.bridge import LOOPS
from aio_sched.bench.emulated import TimedDevice
from aio_sched.bench.report import percentiles, print_table, show_progress, table
from aio_sched.bench.rivals import BridgeRival
from aio_sched.bench.wake import Config, Samples, WakeRun
from streams.bridge.governed_pace import GovernedPace
from streams.bridge.prediction import SpinBudget
from streams.stream import Stream

_NEVER = float("inf")
_EVEN, _UNEVEN = 0.02, None


@dataclass(frozen=True)
class Governed:
    """A policy like ``auto``, with what is to be compared as arguments."""

    name: str
    patience: float = 1.0
    widest_ns: float = 400_000.0
    budget: SpinBudget | None = None

    def pace(self, stream: Stream) -> GovernedPace:
        """Make the pace of one stream."""
        return GovernedPace(self.budget, self.patience, self.widest_ns)


@dataclass(frozen=True)
class Row:
    """One variant under one load."""

    idea: str
    load: str
    jitter: float | None
    variant: str
    make_rival: Callable[[], BridgeRival]
    query_ns: int = 1000
    samples: Samples = field(default_factory=Samples)

    def run(self, loop: str, seconds: float, seed: int) -> None:
        """Add one run to the samples."""
        config = Config.parse(self.load)
        device = TimedDevice(
            config.interval_ms, jitter=self.jitter, query_ns=self.query_ns, seed=seed
        )
        run = WakeRun(config, device, self.make_rival, seconds, self.samples)
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(run.measure())

    def line(self) -> tuple[object, ...]:
        """Return the row of the table."""
        wake = percentiles((ns / 1e3 for ns in self.samples.wake_ns), 0)
        work = "uneven" if self.jitter is None else "even"
        return self.load, work, self.variant, wake["p50"], wake["p99"], self.samples.cpu_percent


def _threads() -> list[Row]:
    """1: uneven streams are handed to a thread."""
    return [
        Row("thread", load, jitter, variant, partial(_governed, variant, widest_ns=widest))
        for load in ("8/4/5", "64/16/20", "10000/4/1")
        for jitter in (_EVEN, _UNEVEN)
        for variant, widest in (("prediction only", _NEVER), ("thread if uneven", 400_000.0))
    ]


def _counters() -> list[Row]:
    """2: a counter in host memory takes the place of a query."""
    return [
        Row("counter", load, _EVEN, f"{policy}, {what}", partial(BridgeRival, policy), query_ns)
        for load in ("8/4/5", "1024/16/5")
        for policy in ("auto", "spin")
        for what, query_ns in (("query 1 us", 1000), ("counter in memory", 0))
    ]


def _slack() -> list[Row]:
    """3: waiters that are not in a hurry."""
    return [
        Row("slack", load, _EVEN, f"patience {patience}", partial(_governed, "", patience=patience))
        for load in ("8/4/5", "64/16/20", "10000/4/1")
        for patience in (1, 8)
    ]


def _governed(name: str, *, patience: float = 1.0, widest_ns: float = 400_000.0) -> BridgeRival:
    return BridgeRival(Governed(name, patience, widest_ns))


IDEAS = {"thread": _threads, "counter": _counters, "slack": _slack}


def main() -> None:
    """Measure the ideas that were asked for, all variants of a load in turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ideas", nargs="*", choices=[*IDEAS, []], help="default: all")
    parser.add_argument("--seconds", type=float, default=6.0, help="per row")
    parser.add_argument("--rounds", type=int, default=6, help="runs of each row")
    parser.add_argument("--loop", choices=LOOPS, default="uvloop")
    options = parser.parse_args()
    for idea in options.ideas or IDEAS:
        rows = IDEAS[idea]()
        for round_ in range(options.rounds):
            for row in rows if round_ % 2 else reversed(rows):
                show_progress(f"{idea} {round_} {row.load} {row.variant}")
                row.run(options.loop, options.seconds / options.rounds, seed=round_)
        show_progress("")
        columns = ("load", "work", "variant", "wake us: p50", "p99", "CPU %")
        print_table(table(f"{idea} ({options.loop})", columns, (row.line() for row in rows)))


if __name__ == "__main__":
    main()
