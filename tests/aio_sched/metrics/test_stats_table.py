"""The table of statistics that people read."""

import io

from rich.console import Console
from rich.table import Table

from aio_sched.loop_lag import LagSummary
from aio_sched.metrics import SchedulerStats
from aio_sched.metrics.bubbles import Cause
from aio_sched.metrics.table import stats_table

BUSY = SchedulerStats(
    steps=1234,
    failures=2,
    elapsed_s=10.0,
    busy_s=8.0,
    bubbles={
        Cause.HOST_PREPARE: 0.5,
        Cause.PUBLISH: 0.25,
        Cause.DEVICE: 0.25,
        Cause.EMPTY_QUEUE: 1.0,
    },
    host_s=4.0,
    hidden_host_s=3.0,
    loop_lag=LagSummary(0.0001, 0.002, 0.0035, 10, 0),
)


def lines(table: Table) -> dict[str, list[str]]:
    """Print a table and read its rows back: what each says in the columns behind its label."""
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(table)
    rows = [line.split("│")[1:-1] for line in console.export_text().splitlines() if "│" in line]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_measured_run_shows_every_number() -> None:
    """Rates, fractions and bubbles are there, with their units."""
    assert lines(BUSY.table("overlap")) == {
        "steps": ["1,234"],
        "failed steps": ["2"],
        "steps per second": ["123.4"],
        "device busy": ["80.0 %"],
        "device busy while there was work": ["88.9 %"],
        "host work hidden behind the device": ["75.0 %"],
        "bubbles: host prepare": ["0.500 s    5.0 %"],
        "bubbles: publish": ["0.250 s    2.5 %"],
        "bubbles: device": ["0.250 s    2.5 %"],
        "empty queue (no bubble)": ["1.000 s   10.0 %"],
        "loop lag p50 / p99 / max": ["0.10 / 2.00 / 3.50 ms"],
    }


def test_unmeasured_run_shows_dashes_beside_a_measured_one() -> None:
    """What is not known is not shown as zero."""
    rows = lines(stats_table({"measured": BUSY, "not": SchedulerStats(is_measured=False)}))
    assert rows["steps"] == ["1,234", "0"]
    for label in ("device busy", "bubbles: publish", "loop lag p50 / p99 / max"):
        assert rows[label][1] == "-"
