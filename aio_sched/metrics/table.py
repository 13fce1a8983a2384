"""Scheduler statistics as a table for people: one column per scheduler."""

from collections.abc import Callable, Mapping

from rich.table import Table

from aio_sched.metrics.bubbles import Cause
from aio_sched.metrics.stats import SchedulerStats

__all__ = ["stats_table"]

_Cell = Callable[[SchedulerStats], str]
_NOT_KNOWN = "-"


def stats_table(columns: Mapping[str, SchedulerStats]) -> Table:
    """Lay statistics out side by side.

    Args:
        columns: heading and numbers of each column, left to right.

    Returns:
        A table for a ``rich`` console; what was not measured shows as ``-``.
    """
    table = Table()
    table.add_column("")
    for heading in columns:
        table.add_column(heading, justify="right")
    for section in _SECTIONS:
        for label, cell in section:
            table.add_row(label, *map(cell, columns.values()))
        table.add_section()
    return table


def _percent(fraction: float | None) -> str:
    return _NOT_KNOWN if fraction is None else f"{fraction:.1%}".replace("%", " %")


def _bubble(cause: Cause) -> _Cell:
    def cell(stats: SchedulerStats) -> str:
        if not stats.is_measured:
            return _NOT_KNOWN
        return f"{stats.bubbles[cause]:.3f} s  {_percent(stats.bubble_shares[cause]):>7}"

    return cell


def _lag(stats: SchedulerStats) -> str:
    if stats.loop_lag is None:
        return _NOT_KNOWN
    return " / ".join(f"{ms:.2f}" for ms in stats.loop_lag.as_ms().values()) + " ms"


_SECTIONS: tuple[tuple[tuple[str, _Cell], ...], ...] = (
    (
        ("steps", lambda stats: f"{stats.steps:,}"),
        ("failed steps", lambda stats: f"{stats.failures:,}"),
        ("steps per second", lambda stats: f"{stats.steps_per_s:,.1f}"),
    ),
    (
        ("device busy", lambda stats: _percent(stats.device_busy)),
        ("device busy while there was work", lambda stats: _percent(stats.device_busy_loaded)),
        ("host work hidden behind the device", lambda stats: _percent(stats.hidden_host)),
    ),
    (
        ("bubbles: host prepare", _bubble(Cause.HOST_PREPARE)),
        ("bubbles: publish", _bubble(Cause.PUBLISH)),
        ("bubbles: device", _bubble(Cause.DEVICE)),
        ("empty queue (no bubble)", _bubble(Cause.EMPTY_QUEUE)),
    ),
    (("loop lag p50 / p99 / max", _lag),),
)
