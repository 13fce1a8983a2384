"""What drafting achieves, counted where results are published."""

from dataclasses import dataclass

__all__ = ["SpeculationStats"]


@dataclass
class SpeculationStats:
    """Counts over all verified rows whose request had not ended before.

    Attributes:
        rows: rows that the target model has verified; each costs its share of one forward.
        drafted: tokens that were drafted for them.
        accepted: of those, how many the target model would have written itself.
        tokens: tokens that the requests took: the accepted ones and one more for each row,
            without what stands behind the end of a text.
        wasted_rows: rows of requests that had ended while their step was in flight; they
            are in none of the other counts.
        refused_events: events of earlier steps that a plan did not wait for.
    """

    rows: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0
    wasted_rows: int = 0
    refused_events: int = 0

    @property
    def acceptance_rate(self) -> float:
        """The share of the drafted tokens that were accepted; 0 if none was drafted."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_forward(self) -> float:
        """Tokens that a request takes from one forward of the target model."""
        return self.tokens / self.rows if self.rows else 0.0
