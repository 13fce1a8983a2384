"""What a trace holds, and its order: lanes of boxes, and the path of each step.

Pure data between the recorder, which only collects, and the two that draw:
``chrome_trace.py`` and ``timeline.py``. Times are seconds of ``time.perf_counter``.
"""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from aio_sched.metrics.bubbles import IssuerState
from streams.monitor import Span

__all__ = [
    "Box",
    "HostRun",
    "Issue",
    "Lane",
    "LaneKind",
    "Published",
    "Record",
    "Recording",
    "StageRun",
    "Stall",
    "StateChange",
    "Stop",
]

STAGES = ("prepare", "forward", "publish")
_PREPARE, _FORWARD, _DEVICE, _PUBLISH = range(4)  # stations on a step's way
_STATION_OF = {"prepare": _PREPARE, "forward": _FORWARD, "publish": _PUBLISH}


class StageRun(NamedTuple):
    """A stage coroutine from its start to its end, suspensions included."""

    step: int
    stage: str
    start_s: float
    end_s: float
    failed: bool


class HostRun(NamedTuple):
    """A stage's own code on the event loop, from a resume to the next suspend."""

    step: int
    stage: str
    start_s: float
    end_s: float


class StateChange(NamedTuple):
    """What the issuer does from then on."""

    now_s: float
    state: IssuerState


class Issue(NamedTuple):
    """A launch was put on a device stream."""

    stream: str
    number: int
    now_s: float


class Published(NamedTuple):
    """A step was published, or has failed, and has left the device."""

    step: int
    now_s: float


class Stall(NamedTuple):
    """The event loop ran nothing that was due in between."""

    start_s: float
    end_s: float


Record = StageRun | HostRun | StateChange | Issue | Published | Stall | Span


class LaneKind(enum.StrEnum):
    """Where the boxes of a lane ran."""

    STAGE = "stage"
    DEVICE = "device"
    LOOP = "loop"


class Box(NamedTuple):
    """One thing that took time.

    ``runs`` are the parts in which a stage's own code ran, empty where nothing
    measured that.
    """

    start_s: float
    end_s: float
    label: str
    step: int | None = None
    failed: bool = False
    runs: tuple[tuple[float, float], ...] = ()


class Lane(NamedTuple):
    """Boxes of one kind; in rows, so that those of one row never overlap."""

    kind: LaneKind
    name: str
    rows: tuple[tuple[Box, ...], ...]


class Stop(NamedTuple):
    """One station on a step's way from prepare to publish.

    ``lane`` and ``row`` are indices. The way leaves prepare at its end, enters forward
    and the device at their start, leaves the device at the end of its last box, and
    arrives at the end of publish.
    """

    lane: int
    row: int
    box: Box
    last: Box
    at_end: bool
    is_device: bool


@dataclass(frozen=True)
class Recording:
    """Everything that a recorder kept, by kind, in order of time.

    Attributes:
        forward_stream: name of the stream that runs the model.
        num_dropped: older records that the recorder no longer had room for.
    """

    forward_stream: str
    num_dropped: int
    stages: tuple[StageRun, ...]
    host_runs: tuple[HostRun, ...]
    spans: tuple[Span, ...]
    states: tuple[StateChange, ...]
    issues: tuple[Issue, ...]
    published: tuple[Published, ...]
    stalls: tuple[Stall, ...]

    @classmethod
    def of(
        cls, records: Iterable[Record], *, forward_stream: str, num_dropped: int = 0
    ) -> "Recording":
        """Sort records, in whatever order they were collected."""
        kept = tuple(records)
        return cls(
            forward_stream,
            num_dropped,
            tuple(sorted((r for r in kept if isinstance(r, StageRun)), key=_start)),
            tuple(sorted((r for r in kept if isinstance(r, HostRun)), key=_start)),
            tuple(sorted((r for r in kept if isinstance(r, Span)), key=_start)),
            tuple(sorted(r for r in kept if isinstance(r, StateChange))),
            tuple(r for r in kept if isinstance(r, Issue)),
            tuple(r for r in kept if isinstance(r, Published)),
            tuple(sorted(r for r in kept if isinstance(r, Stall))),
        )

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps with a recorded forward stage, ascending."""
        return tuple(sorted({run.step for run in self.stages if run.stage == "forward"}))

    def lanes(self) -> tuple[Lane, ...]:
        """One lane per stage, per device stream, and one for the loop's stalls."""
        lanes = [*self._stage_lanes(), *self._device_lanes()]
        if self.stalls:
            boxes = [Box(stall.start_s, stall.end_s, "stall") for stall in self.stalls]
            lanes.append(Lane(LaneKind.LOOP, "event loop", _pack(boxes)))
        return tuple(lanes)

    def paths(self, lanes: Iterable[Lane]) -> Iterator[tuple[int, list[Stop]]]:
        """Give each step's stations, as far as they were recorded, in their order.

        A prepare that found nothing to do leaves its number to the next one, so the
        last of a number is the one that the step came from.
        """
        found: dict[int, dict[int, Stop]] = {step: {} for step in self.steps}
        for index, lane in enumerate(lanes):
            station = self._station(lane)
            if station is None:
                continue
            for row, boxes in enumerate(lane.rows):
                for box in boxes:
                    stops = found.get(-1 if box.step is None else box.step, {})
                    if station == _PREPARE or station not in stops:
                        stops[station] = Stop(
                            index,
                            row,
                            box,
                            box,
                            station in (_PREPARE, _PUBLISH),
                            station == _DEVICE,
                        )
                    else:
                        stops[station] = stops[station]._replace(last=box)
        for step, stops in found.items():
            yield step, [stops[station] for station in sorted(stops)]

    def _station(self, lane: Lane) -> int | None:
        if lane.kind is LaneKind.DEVICE:
            return _DEVICE if lane.name == self.forward_stream else None
        return _STATION_OF.get(lane.name)

    def rank(self, lane: Lane) -> tuple[float, bool, bool, str]:
        """Order lanes as a step passes them, each stage before the streams it fills."""
        if lane.kind is LaneKind.STAGE:
            return STAGES.index(lane.name), False, False, lane.name
        if lane.kind is LaneKind.LOOP:
            return len(STAGES) + 1, False, False, lane.name
        return self._rank(lane.name)

    def _stage_lanes(self) -> Iterator[Lane]:
        runs: dict[tuple[int, str], list[HostRun]] = {}
        for run in self.host_runs:
            runs.setdefault((run.step, run.stage), []).append(run)
        for stage in STAGES:
            boxes = [
                Box(
                    r.start_s,
                    r.end_s,
                    stage,
                    r.step,
                    r.failed,
                    tuple(
                        (run.start_s, run.end_s)
                        for run in runs.get((r.step, stage), ())
                        if r.start_s <= run.start_s and run.end_s <= r.end_s
                    ),
                )
                for r in self.stages
                if r.stage == stage
            ]
            if boxes:
                yield Lane(LaneKind.STAGE, stage, _pack(boxes))

    def _device_lanes(self) -> Iterator[Lane]:
        by_stream: dict[str, list[Span]] = {}
        for span in self.spans:
            by_stream.setdefault(span.stream, []).append(span)
        for stream in sorted(by_stream, key=self._rank):
            yield Lane(LaneKind.DEVICE, stream, _pack(_in_turn(by_stream[stream])))

    def _rank(self, stream: str) -> tuple[float, bool, bool, str]:
        stages = [
            STAGES.index(span.tag.stage)
            for span in self.spans
            if span.stream == stream and span.tag and span.tag.stage in STAGES
        ]
        first = min(stages, default=len(STAGES))
        return first, True, stream != self.forward_stream, stream


def _start(record: StageRun | HostRun | Span) -> float:
    return record.start_s


def _in_turn(spans: Iterable[Span]) -> Iterator[Box]:
    """Make boxes of a stream's spans, which cannot overlap: where they do, clocks jitter."""
    free_s = -inf
    for s in spans:
        start_s = max(s.start_s, free_s)
        free_s = max(s.end_s, start_s)
        yield Box(start_s, free_s, s.label, s.tag.step if s.tag else None, s.failed)


def _pack(boxes: Iterable[Box]) -> tuple[tuple[Box, ...], ...]:
    """Put each box into the first row that is free again when it starts."""
    rows: list[list[Box]] = []
    for box in sorted(boxes):
        for row in rows:
            if row[-1].end_s <= box.start_s:
                row.append(box)
                break
        else:
            rows.append([box])
    return tuple(map(tuple, rows))
