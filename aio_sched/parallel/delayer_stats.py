"""What the delayer has decided so far, and for how long it made prompts wait."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from aio_sched.parallel.delayer import Decision, Estimate, Reason

__all__ = ["DelayerLedger", "DelayerStats", "Histogram", "PassOutcome"]

_PASSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


class PassOutcome(NamedTuple):
    """How a pass went on this rank.

    Attributes:
        estimate: which ranks had a prompt.
        allow: whether they could prefill it.
        reason: why.
        executed: whether this rank did.
    """

    estimate: Estimate
    allow: bool
    reason: Reason
    executed: bool


@dataclass(frozen=True)
class Histogram:
    """Values sorted into buckets.

    Attributes:
        bounds: upper ends of the buckets, each included; one more bucket has no end.
        counts: values in each bucket.
        total: sum of all values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float = 0.0

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    def with_value(self, value: float) -> "Histogram":
        """Return one that has a value more."""
        place = bisect_left(self.bounds, value)
        counts = (*self.counts[:place], self.counts[place] + 1, *self.counts[place + 1 :])
        return Histogram(self.bounds, counts, self.total + value)


def _empty(bounds: tuple[float, ...]) -> Histogram:
    return Histogram(bounds, (0,) * (len(bounds) + 1))


@dataclass(frozen=True)
class DelayerStats:
    """A snapshot; later passes do not change it.

    Waits are counted when they end, whatever ended them, so none of them is 0 passes: a
    prefill that did not wait is in ``outcomes`` only.

    Attributes:
        passes: passes that were negotiated, one exchange each.
        outcomes: passes that were finished, by how they went.
        wait_passes: refusals in a row before a prefill was allowed.
        wait_s: seconds from the first of them until then, of the rank that waited longest.
    """

    passes: int = 0
    outcomes: Mapping[PassOutcome, int] = field(default_factory=lambda: MappingProxyType({}))
    wait_passes: Histogram = field(default_factory=lambda: _empty(_PASSES))
    wait_s: Histogram = field(default_factory=lambda: _empty(_SECONDS))

    @property
    def refusals(self) -> int:
        """Finished passes in which no rank could prefill."""
        return sum(number for outcome, number in self.outcomes.items() if not outcome.allow)


class DelayerLedger:
    """Sums up, in constant memory."""

    def __init__(self) -> None:
        self._passes = 0
        self._outcomes: Counter[PassOutcome] = Counter()
        self._wait_passes = _empty(_PASSES)
        self._wait_s = _empty(_SECONDS)

    def decided(self, decision: Decision) -> None:
        """Count a negotiated pass, and the wait that it ends.

        The decision carries the wait: the state has been reset when a prefill is allowed.
        """
        self._passes += 1
        if decision.allow and decision.refusals:
            self._wait_passes = self._wait_passes.with_value(decision.refusals)
            self._wait_s = self._wait_s.with_value(decision.waited_us / 1e6)

    def finished(self, decision: Decision, *, executed: bool) -> None:
        """Count how a pass went on this rank."""
        outcome = PassOutcome(decision.estimate, decision.allow, decision.reason, executed)
        self._outcomes[outcome] += 1

    def snapshot(self) -> DelayerStats:
        """Return what is known now."""
        outcomes = MappingProxyType(dict(self._outcomes))
        return DelayerStats(self._passes, outcomes, self._wait_passes, self._wait_s)
