"""``aio-sched bench loop``: how much of the device's time each schedule uses.

One pipeline runs under three schedules: ``overlap``, ``sequential`` and ``blocking``,
which is the overlapped order with a host that blocks in ``synchronize``, as engines do
today. For each length of device work and of host work the schedules take turns with
each other and with the *ideal*: the same device work, queued back to back with no host
in between. Figures are medians over the rounds. ``docs/benchmarks.md`` defines each.
"""

import asyncio
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypedDict

from rich.table import Table

from aio_sched.bench.bridge import LOOPS
from aio_sched.bench.device_work import device_worker
from aio_sched.bench.host_work import HostWork, HostWorkKind
from aio_sched.bench.neighbours import Neighbours
from aio_sched.bench.report import Percentiles, print_table, show_progress, table
from aio_sched.bench.rounds import SCHEDULES, Load, Rig, Round
from streams.device import open_device

__all__ = ["DEVICE_MS", "HOST_SHARES", "LoopRow", "loop_table", "run_loop_bench"]

DEVICE_MS = (0.0, 0.2, 1.0, 5.0, 20.0)
"""0 stands for stages that do nothing: what is left is the scheduler itself."""
HOST_SHARES = (0.0, 0.2, 0.5, 0.9)

_MIN_STEPS, _MAX_STEPS = 10, 500
_EMPTY_STEP_S = 0.00025
_IN_FLIGHT_MS = 0.8
_MOST_IN_FLIGHT = 8


class LoopRow(TypedDict):
    """One row of the result."""

    schedule: str
    device: str
    loop: str
    host_ms: float
    device_ms: float
    steps: int
    steps_per_s: float
    ideal_ratio: float
    device_busy: float
    step_overhead_us: float
    loop_lag_ms: Percentiles


@dataclass(frozen=True)
class _Cell:
    loop: str
    device_ms: float
    host_ms: float

    def load(self, round_s: float) -> Load:
        """Choose the steps of a round so that its device work takes about ``round_s``."""
        if self.device_ms == 0:
            return Load(0.0, 0.0, max(_MIN_STEPS, round(round_s / _EMPTY_STEP_S)))
        num_steps = round(round_s * 1e3 / self.device_ms)
        num_steps = min(_MAX_STEPS, max(_MIN_STEPS, num_steps))
        return Load(self.device_ms / 1e3, self.host_ms / 1e3, num_steps)


def run_loop_bench(
    *,
    device: str = "cpu",
    schedules: Sequence[str] = tuple(SCHEDULES),
    loops: Sequence[str] = tuple(LOOPS),
    device_ms: Sequence[float] = DEVICE_MS,
    host_shares: Sequence[float] = HOST_SHARES,
    seconds: float = 1.5,
    rounds: int = 3,
    depth: int | None = None,
    host_work: HostWorkKind = "native",
    copies: bool = False,
    json: bool = False,
) -> list[LoopRow]:
    """Measure, and return one row per schedule, loop, device time and host time.

    Opens the device, and runs each round on an event loop of its own; call it where no
    loop runs.

    Args:
        device: as ``open_device`` takes it.
        schedules: which of ``overlap``, ``sequential``, ``blocking``.
        loops: ``"asyncio"``, ``"uvloop"`` or both.
        device_ms: lengths of a step's device work; 0 for empty stages, once per loop.
        host_shares: host work of a step as shares of its device work.
        seconds: device work per row; what a row takes also depends on its schedule.
        rounds: runs per row.
        depth: steps in flight; None takes two, and more where two are less than 0.8 ms of
            device work: about the time that a host needs to see a step done and launch another.
        host_work: ``"native"`` or ``"python"``, see ``HostWork``.
        copies: let each step also write a table on the schedule stream and copy its
            result to the host; on the CPU device that is two more threads per step.
        json: print nothing; without it progress goes to stderr and the table to
            stdout.

    Raises:
        ValueError: an unknown schedule or loop, or a number out of range.
        UnknownDeviceError: no such kind of device.
        DeviceUnavailableError: this machine has none, or none of its work has a
            known length.
    """
    _check_names("schedule", schedules, SCHEDULES)
    _check_names("loop", loops, LOOPS)
    _check_numbers(device_ms, host_shares, seconds, rounds)
    host = HostWork(host_work)
    rows: list[LoopRow] = []
    neighbours = Neighbours()
    with open_device(device, timing=True) as opened:
        rig = Rig(opened, device_worker(opened), host, 2, copies)
        for cell in _cells(loops, device_ms, host_shares):
            rig = replace(rig, depth=_depth(cell) if depth is None else depth)
            load = cell.load(seconds / rounds)
            if not json:
                show_progress(f"{cell.loop} device {cell.device_ms:g} ms host {cell.host_ms:g} ms")
            seen = _measure(rig, cell.loop, load, schedules, rounds)
            rows += [_row(name, opened.name, cell, seen[name]) for name in schedules]
    if not json:
        show_progress("")
        print_table(loop_table(rows, host=host, depth=depth, copies=copies))
        print(neighbours.note())
    return rows


def loop_table(
    rows: Sequence[LoopRow], *, host: HostWork, depth: int | None, copies: bool
) -> Table:
    """Render rows, with the method in the header."""
    in_flight = f"{depth} steps" if depth else "2 steps, and at least 0.8 ms of device work,"
    what = "a table, a launch and a copy to the host" if copies else "one launch"
    title = (
        f"A pipeline of {what} per step under three schedules, {in_flight} in flight; medians "
        "over rounds that take turns.\nideal: the same device work queued back to back with no "
        f"host in between, in the same rounds.\nhost: {_HOST_WORK[host.kind]}, a turn of the "
        f"loop every {host.slice_s * 1e3:g} ms; lag: of a beat every 1 ms"
    )
    columns = (
        *("device", "device ms", "host ms", "loop", "schedule", "steps/s", "ideal ratio"),
        *("device busy", "overhead us", "lag p50 ms", "p99", "max"),
    )
    return table(title, columns, (_line(row) for row in rows))


_HOST_WORK: dict[HostWorkKind, str] = {
    "native": "hashing on the loop's thread, which gives up the GIL",
    "python": "Python code on the loop's thread, which the CPU device's threads wait for",
}


def _line(row: LoopRow) -> tuple[object, ...]:
    lag = row["loop_lag_ms"]
    return (
        *(row["device"], row["device_ms"], row["host_ms"], row["loop"], row["schedule"]),
        *(row["steps_per_s"], row["ideal_ratio"], row["device_busy"], row["step_overhead_us"]),
        *(lag["p50"], lag["p99"], lag["max"]),
    )


# Measuring ------------------------------------------------------------------


def _cells(
    loops: Sequence[str], device_ms: Sequence[float], host_shares: Sequence[float]
) -> Iterator[_Cell]:
    for length, loop in product(device_ms, loops):
        for share in host_shares if length else (0.0,):
            yield _Cell(loop, float(length), round(float(share * length), 6))


def _depth(cell: _Cell) -> int:
    if not cell.device_ms:
        return 2
    return min(_MOST_IN_FLIGHT, max(2, math.ceil(_IN_FLIGHT_MS / cell.device_ms)))


def _measure(
    rig: Rig, loop: str, load: Load, schedules: Sequence[str], rounds: int
) -> dict[str, list[Round]]:
    """Run all schedules and the ideal in turns, each round in another order."""
    seen: dict[str, list[Round]] = {name: [] for name in schedules}
    for number in range(rounds):
        ideal_s = rig.ideal_s(load)
        shift = number % len(schedules)
        for name in (*schedules[shift:], *schedules[:shift]):
            with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                seen[name].append(runner.run(rig.run(name, load, ideal_s)))
    return seen


def _row(schedule: str, device: str, cell: _Cell, rounds: Sequence[Round]) -> LoopRow:
    overheads_s = [overhead_s for each in rounds for overhead_s in each.overheads_s]
    return {
        "schedule": schedule,
        "device": device,
        "loop": cell.loop,
        "host_ms": cell.host_ms,
        "device_ms": cell.device_ms,
        "steps": sum(each.measured.num_steps for each in rounds),
        "steps_per_s": _median((each.steps_per_s for each in rounds), 1),
        "ideal_ratio": _median((each.ideal_ratio for each in rounds), 4),
        "device_busy": _median((each.device_busy for each in rounds), 4),
        "step_overhead_us": _median((seconds * 1e6 for seconds in overheads_s), 1),
        "loop_lag_ms": {
            "p50": _median((each.lag.p50_s * 1e3 for each in rounds), 4),
            "p99": _median((each.lag.p99_s * 1e3 for each in rounds), 4),
            "max": round(max(each.lag.max_s for each in rounds) * 1e3, 4),
        },
    }


def _median(values: Iterable[float], digits: int) -> float:
    return round(statistics.median(values), digits)


# Arguments ------------------------------------------------------------------


def _check_names(kind: str, chosen: Sequence[str], known: Iterable[str]) -> None:
    known = list(known)
    if not chosen:
        raise ValueError(f"no {kind} is chosen; use some of {', '.join(known)}")
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"{kind} {unknown[0]!r} is unknown; use some of {', '.join(known)}")


def _check_numbers(
    device_ms: Sequence[float], host_shares: Sequence[float], seconds: float, rounds: int
) -> None:
    if not device_ms or min(device_ms) < 0:
        raise ValueError(f"device_ms={device_ms}: give one or more, none below 0")
    if not host_shares or min(host_shares) < 0:
        raise ValueError(f"host_shares={host_shares}: give one or more, none below 0")
    if seconds <= 0 or rounds < 1:
        raise ValueError(f"seconds={seconds}, rounds={rounds}: need seconds > 0, rounds >= 1")
