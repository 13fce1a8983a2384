"""What a run of the prefill delayer's benchmarks gives, and how runs are laid out."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["COLUMNS", "Figures", "cells", "p99"]

COLUMNS = (
    "ranks",
    "prompts/s",
    "delayer",
    "tokens/s",
    "over off (least-most)",
    "TTFT p50 ms",
    "p99 ms (least-most)",
    "TPOT p50 ms",
    "refused %",
)


@dataclass(frozen=True)
class Figures:
    """What one run gave.

    Attributes:
        tokens_per_s: tokens of all texts over the time until the last one.
        ttft_p50_ms: from arrival to the first token.
        ttft_p99_ms: likewise.
        tpot_p50_ms: between two tokens of a text, the mean of each text.
        refused: share of all passes in which no rank could prefill.
    """

    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float
    refused: float


def p99(values: Sequence[float]) -> float:
    """Return what one value in a hundred is above."""
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def cells(runs: list[Figures], off: list[Figures]) -> list[Any]:
    """Return the medians of some runs, beside those of the same seeds without a delayer."""
    ratios = [a.tokens_per_s / b.tokens_per_s for a, b in zip(runs, off, strict=True)]
    p99s = [run.ttft_p99_ms for run in runs]
    return [
        round(statistics.median(run.tokens_per_s for run in runs)),
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        round(statistics.median(run.ttft_p50_ms for run in runs)),
        f"{statistics.median(p99s):.0f} ({min(p99s):.0f}-{max(p99s):.0f})",
        round(statistics.median(run.tpot_p50_ms for run in runs), 1),
        round(100 * statistics.median(run.refused for run in runs)),
    ]
