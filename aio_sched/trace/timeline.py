"""A still picture of some steps: who worked on which step when, and why nobody did.

This module chooses what to show; ``timeline_svg.py`` draws it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import inf

from aio_sched.metrics.bubbles import Cause, split_gap
from aio_sched.trace.recording import Box, Lane, LaneKind, Recording, Stop
from aio_sched.trace.timeline_svg import Arrow, Picture, Row, draw

__all__ = ["Window", "draw_timeline"]

DEFAULT_LAST = 6
_WHAT = {
    LaneKind.STAGE: "stage",
    LaneKind.DEVICE: "device stream",
    LaneKind.LOOP: "stalls",
}


@dataclass(frozen=True)
class Window:
    """Some consecutive steps of a recording.

    Attributes:
        recording: where they come from.
        steps: the first and the last of them.
        start_s: when the first of them was prepared.
        end_s: when the last of them was published.
        title: what to write above it.
    """

    recording: Recording
    steps: tuple[int, int]
    start_s: float
    end_s: float
    title: str = ""

    @classmethod
    def of(
        cls,
        recording: Recording,
        *,
        steps: tuple[int, int] | None = None,
        last: int | None = None,
        title: str = "",
    ) -> "Window":
        """Choose the steps to show; see ``TraceRecorder.picture``.

        Raises:
            ValueError: both ways to choose are used, or nothing was recorded of it.
        """
        if steps is not None and last is not None:
            raise ValueError(f"steps={steps} and last={last} both choose; give one of them")
        known = set(recording.steps)
        first, final = steps or _newest(recording, known, DEFAULT_LAST if last is None else last)
        times = [
            (run.start_s, run.end_s)
            for run in recording.stages
            if first <= run.step <= final and run.step in known
        ]
        if not times:
            raise ValueError(_nothing_recorded(recording, first, final))
        start_s, end_s = min(t[0] for t in times), max(t[1] for t in times)
        return cls(recording, (first, final), start_s, end_s, title)


def draw_timeline(windows: Sequence[Window]) -> str:
    """Draw windows below each other, on one time scale, as an SVG document.

    A launch follows its neighbour of the same step without a visible gap where the
    scale leaves no room for one.

    Raises:
        ValueError: no window was given.
    """
    if not windows:
        raise ValueError("no window to draw; give at least one")
    return draw([_picture(window) for window in windows])


def _newest(recording: Recording, known: set[int], last: int) -> tuple[int, int]:
    if last < 1:
        raise ValueError(f"last={last} shows nothing; use at least 1")
    finished = known & {record.step for record in recording.published}
    shown = sorted(finished or known)[-last:]
    return (shown[0], shown[-1]) if shown else (0, 0)


def _nothing_recorded(recording: Recording, first: int, final: int) -> str:
    steps = recording.steps
    have = f"recorded are {steps[0]} to {steps[-1]}" if steps else "no step was recorded"
    return (
        f"nothing of steps {first} to {final} is in the trace; {have}, and "
        f"{recording.num_dropped} older events were dropped (see max_events)"
    )


def _picture(window: Window) -> Picture:
    recording = window.recording
    lanes = sorted(recording.lanes(), key=recording.rank)
    places: dict[tuple[int, int], int] = {}
    rows: list[Row] = []
    for index, lane in enumerate(lanes):
        for number, boxes in enumerate(lane.rows):
            if clipped := tuple(_clip(boxes, window)):
                places[index, number] = len(rows)
                rows.append(Row(_heading(lane, number), lane.kind, lane.name, number, clipped))
    forward = (LaneKind.DEVICE, recording.forward_stream)
    return Picture(
        title=window.title,
        start_s=window.start_s,
        end_s=window.end_s,
        rows=tuple(rows),
        bubble_row=next((i for i, row in enumerate(rows) if (row.kind, row.lane) == forward), None),
        bubbles=tuple(_bubbles(window)),
        arrows=tuple(_arrows(window, lanes, places)),
    )


def _heading(lane: Lane, row: int) -> tuple[str, str]:
    """Name a row, and say what it is a row of; further rows of a lane go unnamed."""
    return ("", "") if row else (lane.name, _WHAT[lane.kind])


def _clip(boxes: Sequence[Box], window: Window) -> Iterator[Box]:
    """Cut off what is outside of the window; neighbouring steps give the context."""
    for box in boxes:
        start_s, end_s = max(box.start_s, window.start_s), min(box.end_s, window.end_s)
        if start_s < end_s:
            runs = [(max(s, start_s), min(e, end_s)) for s, e in box.runs]
            yield box._replace(
                start_s=start_s, end_s=end_s, runs=tuple((s, e) for s, e in runs if s < e)
            )


def _arrows(
    window: Window, lanes: Sequence[Lane], places: dict[tuple[int, int], int]
) -> Iterator[Arrow]:
    """Lead each step of the window from station to station."""
    for step, stops in window.recording.paths(lanes):
        if window.steps[0] <= step <= window.steps[1]:
            for stop, following in pairwise(stops):
                from_row = places.get((stop.lane, stop.row))
                to_row = places.get((following.lane, following.row))
                if from_row is not None and to_row is not None:
                    yield Arrow(from_row, _leaves_s(stop), to_row, _enters_s(following))


def _enters_s(stop: Stop) -> float:
    return stop.box.end_s if stop.at_end else stop.box.start_s


def _leaves_s(stop: Stop) -> float:
    """Forward hands over as soon as it begins to launch, the device when it is done."""
    return stop.last.end_s if stop.at_end or stop.is_device else stop.box.start_s


def _bubbles(window: Window) -> Iterator[tuple[float, float, Cause]]:
    """Find the gaps of the forward stream, with their causes."""
    recording = window.recording
    issued = {i.number: i.now_s for i in recording.issues if i.stream == recording.forward_stream}
    states = [(change.now_s, change.state) for change in recording.states]
    spans = [s for s in recording.spans if s.stream == recording.forward_stream]
    at_s = window.start_s
    for span in spans:
        if span.end_s > at_s:
            until_s = min(span.start_s, window.end_s)
            yield from _merged(split_gap(at_s, until_s, issued.get(span.number, inf), states))
            at_s = span.end_s
    if spans:
        yield from _merged(split_gap(at_s, window.end_s, inf, states))


def _merged(
    pieces: Iterable[tuple[float, float, Cause]],
) -> Iterator[tuple[float, float, Cause]]:
    """Join neighbours of one cause: prepare and forward are both the host."""
    for cause, group in groupby(pieces, key=lambda piece: piece[2]):
        joined = list(group)
        yield joined[0][0], joined[-1][1], cause
