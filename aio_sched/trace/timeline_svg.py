"""Draws a timeline as SVG: plain shapes and text on white, no script, no font file.

Elements carry a class and ``data-`` attributes that say what they show.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import floor, log10
from typing import NamedTuple

from aio_sched.metrics.bubbles import Cause
from aio_sched.trace.recording import Box, LaneKind
from aio_sched.trace.svg import arrow, arrow_tip, hatch, line, rect, text, text_width
from aio_sched.trace.timeline_style import (
    BANDS,
    FAILED,
    FAINT,
    GRID,
    HATCHES,
    INK,
    MARGIN,
    NEUTRAL,
    STEP_COLOURS,
    WIDTH,
    legend,
)

__all__ = ["Arrow", "Picture", "Row", "draw"]

GUTTER, ROW_HEIGHT, ROW_GAP = 112.0, 22.0, 6.0
TITLE_HEIGHT, AXIS_HEIGHT, LEGEND_HEIGHT = 30.0, 26.0, 26.0
FONT = "system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif"


class Row(NamedTuple):
    """One line of boxes that do not overlap, and the lane that it belongs to."""

    heading: tuple[str, str]
    kind: LaneKind
    lane: str
    number: int
    boxes: tuple[Box, ...]


class Arrow(NamedTuple):
    """A step goes from one row to another."""

    from_row: int
    from_s: float
    to_row: int
    to_s: float


class Picture(NamedTuple):
    """What one panel shows; all of it lies between start and end."""

    title: str
    start_s: float
    end_s: float
    rows: tuple[Row, ...]
    bubble_row: int | None
    bubbles: tuple[tuple[float, float, Cause], ...]
    arrows: tuple[Arrow, ...]


def draw(pictures: Sequence[Picture]) -> str:
    """Draw panels below each other, on one time scale, with one legend."""
    longest_s = max(picture.end_s - picture.start_s for picture in pictures)
    scale = (WIDTH - GUTTER - MARGIN) / max(longest_s, 1e-9)
    body: list[str] = []
    top = MARGIN / 2
    for picture in pictures:
        panel = _Panel(picture, top, scale)
        body += panel.elements()
        top = panel.bottom
    boxes = [box for picture in pictures for row in picture.rows for box in row.boxes]
    causes = {cause for picture in pictures for _, _, cause in picture.bubbles}
    body += legend(top + 5, boxes, causes)
    height = top + LEGEND_HEIGHT
    return "\n".join([*_head(height), *body, "</svg>", ""])


class _Panel:
    """Coordinates of one panel, and what is in it."""

    def __init__(self, picture: Picture, top: float, scale: float) -> None:
        self.picture = picture
        self.top = top
        self.scale = scale
        self.rows_top = top + TITLE_HEIGHT
        self.rows_bottom = self.rows_top + len(picture.rows) * (ROW_HEIGHT + ROW_GAP)
        self.bottom = self.rows_bottom + AXIS_HEIGHT

    def elements(self) -> Iterator[str]:
        yield from self._title()
        yield from self._bands()
        yield from self._axis()
        for index, row in enumerate(self.picture.rows):
            yield from self._boxes(index, row)
        yield from self._bubbles()
        yield from self._arrows()

    def x(self, at_s: float) -> float:
        return round(GUTTER + (at_s - self.picture.start_s) * self.scale, 2)

    def y(self, index: int) -> float:
        return self.rows_top + index * (ROW_HEIGHT + ROW_GAP) + ROW_GAP / 2

    def _title(self) -> Iterator[str]:
        y = self.top + 19
        yield text(MARGIN, y, self.picture.title, "title", fill=INK, size=14, weight=600)
        if self.picture.bubble_row is not None:
            idle_s = sum(end_s - start_s for start_s, end_s, _ in self.picture.bubbles)
            busy = 1 - idle_s / (self.picture.end_s - self.picture.start_s)
            summary = f"forward stream busy {busy:.1%} of this window".replace("%", " %")
            yield text(WIDTH - MARGIN, y, summary, "summary", anchor="end", fill=FAINT)

    def _bands(self) -> Iterator[str]:
        for index, row in enumerate(self.picture.rows):
            name, what = row.heading
            top = self.y(index) - ROW_GAP / 2
            height = ROW_HEIGHT + ROW_GAP
            yield rect(0, top, WIDTH, height, "band", fill=BANDS[row.kind])
            if index and name:
                yield line(0, top, WIDTH, top, GRID)
            baseline = self.y(index) + (11 if what else 15)
            yield text(MARGIN, baseline, name, "lane", fill=INK, weight=600)
            yield text(MARGIN, baseline + 10, what, "kind", size=9, fill=FAINT)

    def _axis(self) -> Iterator[str]:
        yield line(GUTTER, self.rows_top, GUTTER, self.rows_bottom, GRID)
        span_ms = (self.picture.end_s - self.picture.start_s) * 1000
        step_ms = _tick_ms((WIDTH - GUTTER - MARGIN) / self.scale * 1000)
        for tick in range(floor(span_ms / step_ms) + 1):
            x = self.x(self.picture.start_s + tick * step_ms / 1000)
            yield line(x, self.rows_top, x, self.rows_bottom + 4, GRID)
            label = f"{tick * step_ms:g}" + (" ms" if tick == 0 else "")
            y = self.rows_bottom + 15
            yield text(x, y, label, "tick", size=10, fill=FAINT, anchor="middle")

    def _boxes(self, index: int, row: Row) -> Iterator[str]:
        boxes = (
            list(_merged(row.boxes, 1.0 / self.scale)) if row.kind is LaneKind.DEVICE else row.boxes
        )
        for position, box in enumerate(boxes):
            left, right = self.x(box.start_s), self.x(box.end_s)
            limit = self.x(boxes[position + 1].start_s) if position + 1 < len(boxes) else WIDTH
            right = min(max(right, left + 1.2), max(limit, right))  # a hair must be seen
            yield from self._box(index, row, box, left, right)

    def _box(self, index: int, row: Row, box: Box, left: float, right: float) -> Iterator[str]:
        y, colour = self.y(index), _colour(box)
        runs = [(self.x(start_s), self.x(end_s)) for start_s, end_s in box.runs]
        suspended = bool(runs) and sum(until - at for at, until in runs) < right - left - 1
        yield rect(
            left,
            y,
            right - left,
            ROW_HEIGHT,
            "box",
            colour,
            opacity=0.3 if suspended else 1,
            tooltip=_tooltip(box),
            data={"lane": f"{row.kind}/{row.lane}/{row.number}", "step": box.step},
        )
        if not suspended:
            runs = [(left, right)]
        else:
            for run_left, run_right in runs:
                width = max(run_right - run_left, min(1.2, right - run_left))
                yield rect(run_left, y, width, ROW_HEIGHT, "run", colour)
        if box.step is not None:
            yield from _number(str(box.step), y + 15, _stretches(left, right, runs), colour)

    def _bubbles(self) -> Iterator[str]:
        if self.picture.bubble_row is None:
            return
        y = self.y(self.picture.bubble_row)
        for start_s, end_s, cause in self.picture.bubbles:
            left, right = self.x(start_s), self.x(end_s)
            if right - left < 0.5:
                continue
            data = {"cause": cause.value, "ms": f"{(end_s - start_s) * 1000:.3f}"}
            tooltip = f"{HATCHES[cause].words}: {(end_s - start_s) * 1000:.3f} ms"
            fill = f"url(#{cause.value})"
            yield rect(
                left, y, right - left, ROW_HEIGHT, "bubble", fill, tooltip=tooltip, data=data
            )

    def _arrows(self) -> Iterator[str]:
        """Lead from box to box: out at the lower edge, in at the upper one."""
        for way in self.picture.arrows:
            down = way.to_row > way.from_row
            x1, y1 = self.x(way.from_s), self.y(way.from_row) + (ROW_HEIGHT if down else 0)
            x2, y2 = self.x(way.to_s), self.y(way.to_row) + (0 if down else ROW_HEIGHT)
            bend = (y2 - y1) * 0.6
            curve = f"M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}"
            yield arrow(curve, "flow", INK)


def _stretches(
    left: float, right: float, runs: Sequence[tuple[float, float]]
) -> Iterator[tuple[float, float, bool]]:
    """Split a box into stretches (from, to, dark) of one shade."""
    at = left
    for run_left, run_right in runs:
        yield at, run_left, False
        yield run_left, run_right, True
        at = run_right
    yield at, right, False


def _number(
    words: str, y: float, stretches: Iterable[tuple[float, float, bool]], colour: str
) -> Iterator[str]:
    """Write a step's number into the widest stretch, if it fits."""
    left, right, dark = max(stretches, key=lambda stretch: stretch[1] - stretch[0])
    if right - left > text_width(words, 11) + 2:
        x, fill = (left + right) / 2, "#fff" if dark else colour
        yield text(x, y, words, "number", fill=fill, size=11, weight=600, anchor="middle")


def _merged(boxes: Sequence[Box], gap_s: float) -> Iterator[Box]:
    """Join launches of one step that the scale cannot keep apart."""
    joined: Box | None = None
    for box in boxes:
        if joined is None:
            joined = box
        elif joined.step == box.step and box.start_s - joined.end_s < gap_s:
            failed = joined.failed or box.failed
            joined = joined._replace(end_s=box.end_s, failed=failed)
        else:
            yield joined
            joined = box
    if joined is not None:
        yield joined


def _colour(box: Box) -> str:
    if box.failed:
        return FAILED
    return NEUTRAL if box.step is None else STEP_COLOURS[box.step % len(STEP_COLOURS)]


def _tooltip(box: Box) -> str:
    of = "" if box.step is None else f" of step {box.step}"
    failed = ", failed" if box.failed else ""
    return f"{box.label}{of}: {(box.end_s - box.start_s) * 1000:.3f} ms{failed}"


def _tick_ms(full_width_ms: float) -> float:
    """Choose a round distance that makes six to fourteen ticks of the full width."""
    power = 10.0 ** floor(log10(full_width_ms))
    return next(t * power for t in (0.1, 0.2, 0.5, 1.0) if full_width_ms / (t * power) <= 14)


def _head(height: float) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" '
        f'width="{WIDTH:g}" height="{height:g}" font-family="{FONT}">'
    )
    yield "<defs>"
    for cause, style in HATCHES.items():
        yield hatch(cause.value, style.colour, style.angle)
    yield arrow_tip(INK)
    yield "</defs>"
    yield rect(0, 0, WIDTH, height, "paper", "#fff")
