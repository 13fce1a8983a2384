"""Recording what a scheduler and its device did, to look at it later."""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from aio_sched.metrics.bubbles import issuer_state
from aio_sched.monitor import SchedulerMonitor
from aio_sched.trace.chrome import chrome_trace_json
from aio_sched.trace.recording import (
    HostRun,
    Issue,
    Published,
    Record,
    Recording,
    StageRun,
    Stall,
    StateChange,
)
from aio_sched.trace.timeline import Window, draw_timeline
from streams.clock import perf_s
from streams.monitor import DeviceMonitor, Span

if TYPE_CHECKING:
    from streams.launch import Operation

__all__ = ["TraceRecorder"]


class TraceRecorder(SchedulerMonitor, DeviceMonitor):
    """Collects stages, device spans, issuer states and loop stalls of one scheduler.

    Costs one append per event, from whatever thread it comes. The newest
    ``max_events`` are kept. One recorder serves one scheduler: steps of two would
    carry the same numbers.

    Args:
        max_events: records to keep, at least 1; a step makes about twenty.
        forward_stream: name of the stream that runs the model, with the scheduler's
            prefix where it has one.
        clock: tells the time in seconds; another one is for tests.

    Raises:
        ValueError: ``max_events`` is not positive.
    """

    def __init__(
        self,
        max_events: int = 200_000,
        *,
        forward_stream: str = "forward",
        clock: Callable[[], float] = perf_s,
    ) -> None:
        if max_events < 1:
            raise ValueError(f"max_events={max_events} keeps nothing; use at least 1")
        self.forward_stream = forward_stream
        self._clock = clock
        # Numbered, so that the oldest one kept says how many were dropped before it.
        # Both calls of an append are atomic; worker threads append without a lock.
        self._records: deque[tuple[int, Record]] = deque(maxlen=max_events)
        self._numbers = count()

    def __repr__(self) -> str:
        return f"<TraceRecorder {len(self._records)} of at most {self._records.maxlen} events>"

    # Told by the scheduler ----------------------------------------------------

    def state(self, name: str, now_s: float) -> None:
        """Keep what the issuer does from now on."""
        self._keep(StateChange(now_s, issuer_state(name)))

    def stage(self, step: int, stage: str, start_s: float, end_s: float, failed: bool) -> None:
        """Keep a stage that has ended."""
        self._keep(StageRun(step, stage, start_s, end_s, failed))

    def ran(self, step: int, stage: str, start_s: float, end_s: float) -> None:
        """Keep a stretch in which a stage's own code ran."""
        self._keep(HostRun(step, stage, start_s, end_s))

    def published(self, step: int, now_s: float) -> None:
        """Keep the end of a step."""
        self._keep(Published(step, now_s))

    # Told by the device -------------------------------------------------------

    def on_launch(self, operation: "Operation") -> None:
        """Keep when a launch was issued."""
        stream = operation.launch.event.recorded_on().name
        self._keep(Issue(stream, operation.number, self._clock()))

    def on_span(self, span: Span) -> None:
        """Keep when a launch ran."""
        self._keep(span)

    # Told by whoever measured it ----------------------------------------------

    def add_stalls(self, stalls: Iterable[tuple[float, float]]) -> None:
        """Keep stretches (from, to) in which the event loop ran nothing that was due."""
        for start_s, end_s in stalls:
            self._keep(Stall(start_s, end_s))

    # Asked by the user --------------------------------------------------------

    def recording(self) -> Recording:
        """Return what is kept now."""
        kept = self._records.copy()
        num_dropped = max(number for number, _ in kept) + 1 - len(kept) if kept else 0
        return Recording.of(
            (record for _, record in kept),
            forward_stream=self.forward_stream,
            num_dropped=num_dropped,
        )

    def write(self, path: str | PathLike[str]) -> None:
        """Write the trace for ui.perfetto.dev or chrome://tracing.

        Blocks for as long as the file takes; do it when the scheduler has stopped.

        Raises:
            OSError: the file cannot be written.
        """
        Path(path).write_text(chrome_trace_json(self.recording()), encoding="utf-8")

    def picture(
        self,
        path: str | PathLike[str],
        *,
        steps: tuple[int, int] | None = None,
        last: int | None = None,
        title: str = "",
    ) -> None:
        """Write an SVG picture of some consecutive steps.

        Args:
            path: the file to write.
            steps: first and last step to show, both included.
            last: or how many of the newest finished steps; 6 if neither is given.
            title: goes above the picture.

        Raises:
            ValueError: both ``steps`` and ``last`` are given, or nothing of the steps
                was recorded or is still kept.
            OSError: the file cannot be written.
        """
        window = Window.of(self.recording(), steps=steps, last=last, title=title)
        Path(path).write_text(draw_timeline([window]), encoding="utf-8")

    def _keep(self, record: Record) -> None:
        self._records.append((next(self._numbers), record))
