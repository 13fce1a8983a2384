"""How late the event loop runs: a heartbeat task, and what it has seen.

Whatever blocks the thread, device or not, makes the heartbeat late. The clock is
``streams.clock.perf_s``: uvloop's own time has millisecond steps, and its timers may fire
early, which counts as no lag. On a loop that has nothing else to do, a timer still
comes up to about a millisecond late on either loop; that is the floor of what is seen.
"""

import asyncio
import math
from collections import defaultdict, deque
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from streams.clock import perf_s

__all__ = ["LagSummary", "LoopLagMonitor", "Stall"]


class Stall(NamedTuple):
    """A time in which the loop ran nothing that was due; seconds of ``streams.clock.perf_s``."""

    start_s: float
    end_s: float


class LagSummary(NamedTuple):
    """How late something ran that came due at a random moment, in seconds.

    Percentiles are 0 before the first beat, and exact to 3 %; ``max_s`` is exact.
    """

    p50_s: float
    p99_s: float
    max_s: float
    num_beats: int
    num_stalls: int

    def as_ms(self) -> dict[str, float]:
        """Return p50, p99 and max in milliseconds, as the benchmarks print them."""
        return {"p50": self.p50_s * 1e3, "p99": self.p99_s * 1e3, "max": self.max_s * 1e3}


class LoopLagMonitor:
    """Measures the lag of the running loop for the length of an ``async with`` block.

    Costs one timer per interval while it runs, and nothing otherwise. Memory is bounded
    however long it runs.

    Args:
        interval_s: seconds between beats; at least a millisecond, since uvloop rounds
            shorter sleeps to none at all and would spin.
        stall_s: a beat that comes later than this many seconds is a stall.
        max_stalls: stalls that are kept, the latest ones.
        clock: tells the time in seconds; another one is for tests.

    Attributes:
        stalls: the latest stalls, oldest first.
        num_stalls: all of them.
        num_beats: beats so far.

    Raises:
        ValueError: a number is too small.
    """

    def __init__(
        self,
        interval_s: float = 0.001,
        stall_s: float = 0.010,
        *,
        max_stalls: int = 4096,
        clock: Callable[[], float] = perf_s,
    ) -> None:
        if interval_s < 0.001:
            raise ValueError(
                f"interval_s={interval_s} is below 0.001; no event loop has finer timers"
            )
        if stall_s <= 0 or max_stalls < 1:
            raise ValueError(f"stall_s={stall_s} and max_stalls={max_stalls} must be positive")
        self.interval_s = interval_s
        self.stall_s = stall_s
        self.stalls: deque[Stall] = deque(maxlen=max_stalls)
        self.num_stalls = 0
        self.num_beats = 0
        self._clock = clock
        self._max_s = 0.0
        self._weights: defaultdict[int, float] = defaultdict(float)  # of lags, by bucket
        self._due_s = math.inf  # nothing is due while it does not run
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "stopped" if self._task is None else "running"
        return f"<LoopLagMonitor {state}: {self.num_beats} beats, {self.num_stalls} stalls>"

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError(f"{self!r} cannot run twice at a time; make another")
        self._due_s = self._clock() + self.interval_s
        self._task = asyncio.create_task(self._beat(), name="aio-sched-loop-lag")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        assert task is not None, "entered before"
        self._note_overdue()
        self._due_s = math.inf
        task.cancel()
        await asyncio.wait([task])

    def summary(self) -> LagSummary:
        """Return what was measured so far, a stall that has just ended included."""
        self._note_overdue()
        return LagSummary(
            self._percentile(0.50),
            self._percentile(0.99),
            self._max_s,
            self.num_beats,
            self.num_stalls,
        )

    async def _beat(self) -> None:
        while True:
            self._due_s = self._clock() + self.interval_s
            await asyncio.sleep(self.interval_s)
            self._note(self._clock())

    def _note_overdue(self) -> None:
        """Count the beat that is due if it is a stall by now: the caller was in its way."""
        now_s = self._clock()
        if now_s - self._due_s > self.stall_s:
            self._note(now_s)

    def _note(self, now_s: float) -> None:
        lag_s = max(0.0, now_s - self._due_s)
        self.num_beats += 1
        self._max_s = max(self._max_s, lag_s)
        if lag_s > self.stall_s:
            self.num_stalls += 1
            self.stalls.append(Stall(self._due_s, now_s))
        self._weigh(lag_s)
        self._due_s = now_s

    def _weigh(self, lag_s: float) -> None:
        """Add the lag of this beat, and of those that would have come due meanwhile.

        Otherwise a stall of a second, in which a thousand beats were due, would weigh
        as much as one beat that was in time ("coordinated omission").
        """
        apart_s = max(self.interval_s, lag_s / 1000)
        while lag_s >= 0.0:
            self._weights[_bucket(lag_s)] += apart_s / self.interval_s
            lag_s -= apart_s

    def _percentile(self, fraction: float) -> float:
        rank = fraction * sum(self._weights.values())
        for bucket in sorted(self._weights):
            rank -= self._weights[bucket]
            if rank <= 0.0:
                return min(_upper_end_s(bucket), self._max_s)
        return self._max_s


def _bucket(lag_s: float) -> int:
    """Number the logarithmic buckets, 32 to each doubling, from one microsecond."""
    return max(0, math.ceil(32 * math.log2(lag_s / 1e-6))) if lag_s > 0 else 0


def _upper_end_s(bucket: int) -> float:
    return 1e-6 * math.exp2(bucket / 32) if bucket else 0.0
