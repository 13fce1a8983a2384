"""What a scheduler has achieved so far: how busy, what it waited for, what it hid.

``StatsCollector`` listens to one scheduler and to the forward stream of its device,
always: a few hundred nanoseconds a call, constant memory. ``SchedulerStats`` is what
it knows at one moment.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from aio_sched.loop_lag import LagSummary
from aio_sched.metrics.bubbles import Cause, ForwardLedger, IssuerState, issuer_state
from aio_sched.metrics.overlap_ledger import OverlapLedger
from aio_sched.monitor import SchedulerMonitor
from streams.clock import perf_s
from streams.monitor import DeviceMonitor, Span

if TYPE_CHECKING:
    from rich.table import Table

    from streams.launch import Operation

__all__ = ["SchedulerStats", "StatsCollector"]


@dataclass(frozen=True)
class SchedulerStats:
    """A snapshot; later steps do not change it. Times in seconds, fractions 0 to 1.

    The wall time of the forward stream, from the first launch on and without the time
    after a stop, is ``busy_s`` plus the sum of ``bubbles``: nothing is left over.

    Attributes:
        steps: steps that were published and have left the device, failed ones too.
        failures: steps that failed; aborted ones, which no step counts, as well.
        elapsed_s: from the first forward launch to now, or to the stop.
        is_measured: whether the device says when it ran what; otherwise the device's
            fractions are None and ``bubbles`` is all zero.
        busy_s: time during which the forward stream ran launches.
        bubbles: time during which it did not, by cause. ``empty_queue`` is listed so
            that the sum is right, but is no bubble: there was nothing to run.
        host_s: time that the stages' own code ran on the event loop; suspended stages
            do not count.
        hidden_host_s: the part of it during which the forward stream was busy.
        loop_lag: how late the event loop was, None if nothing measured it.
    """

    steps: int = 0
    failures: int = 0
    elapsed_s: float = 0.0
    is_measured: bool = True
    busy_s: float = 0.0
    bubbles: Mapping[Cause, float] = field(
        default_factory=lambda: _frozen(dict.fromkeys(Cause, 0.0))
    )
    host_s: float = 0.0
    hidden_host_s: float = 0.0
    loop_lag: LagSummary | None = None

    @property
    def steps_per_s(self) -> float:
        """Steps ended per second of ``elapsed_s``; 0 before the first launch."""
        return _ratio(self.steps, self.elapsed_s) or 0.0

    @property
    def wall_s(self) -> float:
        """Time of the forward stream that is accounted for."""
        return self.busy_s + sum(self.bubbles.values())

    @property
    def loaded_s(self) -> float:
        """``wall_s`` without the time in which there was nothing to do."""
        return self.wall_s - self.bubbles[Cause.EMPTY_QUEUE]

    @property
    def device_busy(self) -> float | None:
        """Fraction of all wall time in which the forward stream ran launches."""
        return _ratio(self.busy_s, self.wall_s) if self.is_measured else None

    @property
    def device_busy_loaded(self) -> float | None:
        """The same fraction of the time in which there was something to do."""
        return _ratio(self.busy_s, self.loaded_s) if self.is_measured else None

    @property
    def hidden_host(self) -> float | None:
        """Fraction of the stages' host time that cost nothing: the device was busy."""
        return _ratio(self.hidden_host_s, self.host_s) if self.is_measured else None

    @property
    def bubble_shares(self) -> Mapping[Cause, float]:
        """``bubbles`` as fractions of ``wall_s``."""
        wall_s = self.wall_s
        return _frozen({cause: _ratio(s, wall_s) or 0.0 for cause, s in self.bubbles.items()})

    def since(self, earlier: "SchedulerStats") -> "SchedulerStats":
        """Return what happened between an earlier snapshot and this one.

        For rates over a window. ``loop_lag`` cannot be split and stays this one's.
        """
        idle_s = {cause: s - earlier.bubbles[cause] for cause, s in self.bubbles.items()}
        return replace(
            self,
            steps=self.steps - earlier.steps,
            failures=self.failures - earlier.failures,
            elapsed_s=self.elapsed_s - earlier.elapsed_s,
            busy_s=self.busy_s - earlier.busy_s,
            bubbles=_frozen(idle_s),
            host_s=self.host_s - earlier.host_s,
            hidden_host_s=self.hidden_host_s - earlier.hidden_host_s,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers, derived ones too, as plain values for JSON."""
        return {
            "steps": self.steps,
            "failures": self.failures,
            "elapsed_s": self.elapsed_s,
            "steps_per_s": self.steps_per_s,
            "device_busy": self.device_busy,
            "device_busy_loaded": self.device_busy_loaded,
            "hidden_host": self.hidden_host,
            "bubbles_s": {cause.value: s for cause, s in self.bubbles.items()},
            "bubble_shares": {cause.value: share for cause, share in self.bubble_shares.items()},
            "loop_lag_ms": self.loop_lag.as_ms() if self.loop_lag is not None else None,
        }

    def table(self, title: str = "scheduler") -> "Table":
        """Return the numbers as a table for a ``rich`` console."""
        from aio_sched.metrics.table import stats_table

        return stats_table({title: self})


# What the device ran can wait while the issuer is on its way to the next launch, which
# the device may be waiting for; it is summed up when the issuer rests.
_AT_WORK = frozenset({IssuerState.PREPARE, IssuerState.FORWARD})
_MANY_SPANS = 16


class StatsCollector(SchedulerMonitor, DeviceMonitor):
    """Listens to a scheduler and its device, and sums up.

    Add it to both before the first launch. ``on_span`` may come from any thread;
    everything else, ``snapshot`` included, belongs to the loop's thread.

    Args:
        forward_stream: name of the stream whose time is accounted for.
        is_measured: whether the device reports spans (``device_timing``).
        clock: tells the time in seconds; another one is for tests.
    """

    def __init__(
        self,
        forward_stream: str = "forward",
        *,
        is_measured: bool = True,
        clock: Callable[[], float] = perf_s,
    ) -> None:
        self.is_measured = is_measured
        self._clock = clock
        self._forward_stream = forward_stream
        self._forward = ForwardLedger()
        self._overlap = OverlapLedger()
        # Spans wait here for the loop's thread. Bounded by what is in flight.
        self._spans: deque[Span] = deque()
        self._num_steps = 0
        self._num_failures = 0
        self._stopped_s: float | None = None

    # Told by the scheduler ----------------------------------------------------

    def state(self, name: str, now_s: float) -> None:
        """Settle what became known, then note what the issuer does from now on."""
        state = issuer_state(name)
        if state not in _AT_WORK or len(self._spans) > _MANY_SPANS:
            self._take_spans()
        self._forward.state(state, now_s)
        self._overlap.settle(self._forward.until_s)
        self._stopped_s = now_s if state is IssuerState.STOPPED else None

    def ran(self, step: int, stage: str, start_s: float, end_s: float) -> None:
        """A stage's own code ran on the loop, from a resume to the next suspend."""
        self._overlap.host(start_s, end_s)

    def published(self, step: int, now_s: float) -> None:
        """Count a step that ended."""
        self._num_steps += 1

    def failed(self, step: int, error: BaseException) -> None:
        """Count a step that failed."""
        self._num_failures += 1

    # Told by the device -------------------------------------------------------

    def on_launch(self, operation: "Operation") -> None:
        """Note when the forward stream was given something to run."""
        stream = operation.launch.event.stream
        if stream is None or stream.name != self._forward_stream:
            return
        if self.is_measured or self._forward.started_s is None:
            self._forward.issue(operation.number, self._clock())

    def on_span(self, span: Span) -> None:
        """Keep what the forward stream ran for the loop's thread."""
        if span.stream == self._forward_stream:
            self._spans.append(span)

    # Asked by the user --------------------------------------------------------

    def snapshot(self, *, loop_lag: LagSummary | None = None) -> SchedulerStats:
        """Return what is known now; call it on the loop's thread.

        Launches on their way to the device are not yet in it: nobody knows whether
        they run.

        Args:
            loop_lag: handed on, for whoever measures it.
        """
        now_s = self._clock()
        forward = self._forward
        self._take_spans()
        forward.settle(now_s)
        self._overlap.settle(forward.until_s)
        end_s = now_s if self._stopped_s is None else self._stopped_s
        return SchedulerStats(
            steps=self._num_steps,
            failures=self._num_failures,
            elapsed_s=0.0 if forward.started_s is None else max(0.0, end_s - forward.started_s),
            is_measured=self.is_measured,
            busy_s=forward.busy_s,
            bubbles=_frozen(forward.idle_s),
            host_s=self._overlap.settled_s,
            hidden_host_s=self._overlap.hidden_s,
            loop_lag=loop_lag,
        )

    def _take_spans(self) -> None:
        while self._spans:
            span = self._spans.popleft()
            self._overlap.device(*self._forward.ran(span.number, span.start_s, span.end_s))


def _frozen(values: dict[Cause, float]) -> Mapping[Cause, float]:
    return MappingProxyType(dict(values))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
