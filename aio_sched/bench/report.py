"""Percentiles of measured samples, and tables of rows that hold them."""

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

from rich.console import Console
from rich.table import Table

__all__ = ["Percentiles", "percentiles", "print_table", "show_progress", "table"]

_LEAST_WIDTH = 150


class Percentiles(TypedDict):
    """Three points of a distribution; None where nothing was measured."""

    p50: float | None
    p99: float | None
    max: float | None


def percentiles(samples: Iterable[float], digits: int = 3) -> Percentiles:
    """Summarize samples: each figure is one of them (nearest rank), rounded."""
    ordered = sorted(samples)
    if not ordered:
        return {"p50": None, "p99": None, "max": None}

    def rank(share: float) -> float:
        return round(ordered[math.ceil(share * len(ordered)) - 1], digits)

    return {"p50": rank(0.50), "p99": rank(0.99), "max": rank(1.0)}


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Lay out rows: text to the left, numbers to the right, None as a dash."""
    laid_out = [list(row) for row in rows]
    result = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        is_text = all(isinstance(row[index], str) for row in laid_out)
        result.add_column(column, justify="left" if is_text else "right")
    for row in laid_out:
        result.add_row(*(_cell(value) for value in row))
    return result


def print_table(table: Table) -> None:
    """Print to stdout; a file or a pipe, which has no width, gets whole cells."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, _LEAST_WIDTH))
    console.print(table)


def show_progress(what: str) -> None:
    """Say on a terminal what is being measured, on one line that is written over."""
    if sys.stderr.isatty():
        print(f"\r{what:<60}\r", end="", file=sys.stderr, flush=True)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
