"""Colours and hatches of the timeline pictures, and the legend that explains them."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from aio_sched.metrics.bubbles import Cause
from aio_sched.trace.recording import Box, LaneKind
from aio_sched.trace.svg import arrow, rect, text, text_width

__all__ = [
    "BANDS",
    "FAILED",
    "FAINT",
    "GRID",
    "HATCHES",
    "INK",
    "MARGIN",
    "NEUTRAL",
    "STEP_COLOURS",
    "WIDTH",
    "legend",
]

WIDTH, MARGIN = 960.0, 14.0
INK, FAINT, GRID = "#24292f", "#656d76", "#d8dee4"
FAILED, NEUTRAL = "#a40e26", "#57606a"
# Dark enough for white numbers; neighbouring steps differ in hue and in lightness.
STEP_COLOURS = ("#2f6db5", "#c4601c", "#3d8a41", "#8a4fa3", "#2a8c8c", "#b83a5b")
BANDS = {LaneKind.STAGE: "#f6f8fa", LaneKind.DEVICE: "#fff8ec", LaneKind.LOOP: "#f6f8fa"}


class Hatch(NamedTuple):
    """How idle time of the forward stream is filled, and what it is called."""

    colour: str
    angle: int
    words: str


HATCHES = {
    Cause.HOST_PREPARE: Hatch("#cf222e", 45, "bubble: host prepare"),
    Cause.PUBLISH: Hatch("#9a6700", -45, "bubble: publish"),
    Cause.DEVICE: Hatch("#57606a", 90, "bubble: device wait"),
    Cause.EMPTY_QUEUE: Hatch("#afb8c1", 0, "empty queue"),
}


class _Swatch(NamedTuple):
    offset: float
    width: float
    fill: str
    opacity: float = 1.0


def legend(top: float, boxes: Collection[Box], causes: Collection[Cause]) -> Iterator[str]:
    """Explain, in one line, what occurs in the picture and nothing else."""
    x = MARGIN
    for swatches, words in _entries(boxes, causes):
        for s in swatches:
            yield rect(x + s.offset, top, s.width, 11, "swatch", s.fill, opacity=s.opacity)
        x += 25
        yield text(x, top + 9.5, words, "legend", fill=FAINT, size=10)
        x += text_width(words, 10) + 8
    yield arrow(f"M{x:g} {top + 5.5:g}h20", "key", INK)
    yield text(x + 25, top + 9.5, "way of a step", "legend", fill=FAINT, size=10)


def _entries(
    boxes: Collection[Box], causes: Collection[Cause]
) -> Iterator[tuple[tuple[_Swatch, ...], str]]:
    yield tuple(_Swatch(i * 7, 7, colour) for i, colour in enumerate(STEP_COLOURS[:3])), "step"
    if any(box.runs for box in boxes):
        yield (_Swatch(0, 20, STEP_COLOURS[0]),), "running"
        yield (_Swatch(0, 20, STEP_COLOURS[0], 0.3),), "suspended"
    if any(box.failed for box in boxes):
        yield (_Swatch(0, 20, FAILED),), "failed"
    for cause, hatch in HATCHES.items():
        if cause in causes:
            yield (_Swatch(0, 20, f"url(#{cause.value})"),), hatch.words
