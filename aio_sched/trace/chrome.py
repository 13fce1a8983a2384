"""The trace as Chrome trace events, which Perfetto and chrome://tracing open.

Format: "Trace Event Format" (Google, the JSON object form), as far as Perfetto's
importer takes it (``src/trace_processor/importers/json``): complete events "X" must
nest or be disjoint on their track, or the importer drops them; flow events "s", "t",
"f" bind to the slice that is open at their time; "M" names and sorts the tracks.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from aio_sched.trace.recording import Box, Lane, LaneKind, Recording, Stop

__all__ = ["chrome_trace_json"]

Event = dict[str, Any]

_HOST_PID, _DEVICE_PID = 1, 2
_PROCESSES = {_HOST_PID: "host (event loop)", _DEVICE_PID: "device"}
_SUFFIXES = {LaneKind.DEVICE: " stream", LaneKind.LOOP: " stalls"}
# No track may carry the number of a process: that one would be its main thread.
_FIRST_TID = 11

# Times are counted in eighths of a microsecond: exact as binary fractions, so that no
# reader's rounding can make neighbours overlap (Perfetto truncates to nanoseconds).
_TICKS_PER_S = 8_000_000
_TICKS_PER_US = 8


def chrome_trace_json(recording: Recording) -> str:
    """Render a recording as one JSON object with ``traceEvents``."""
    export = _Export(recording)
    return json.dumps(
        {
            "traceEvents": list(export.events()),
            "displayTimeUnit": "ms",
            "otherData": {
                "producer": "aio-sched",
                "clock": "time.perf_counter",
                "clock_at_zero_s": export.origin_s,
                "dropped_events": recording.num_dropped,
            },
        },
        separators=(",", ":"),
    )


class _Track(NamedTuple):
    pid: int
    tid: int


class _Export:
    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.lanes = recording.lanes()
        self.origin_s = min(
            (row[0].start_s for lane in self.lanes for row in lane.rows), default=0.0
        )
        tracks = ((i, row) for i, lane in enumerate(self.lanes) for row in range(len(lane.rows)))
        self.tracks = {
            key: _Track(_pid(self.lanes[key[0]]), tid) for tid, key in enumerate(tracks, _FIRST_TID)
        }

    def events(self) -> Iterator[Event]:
        """All events; metadata first, and each slice before the flows that bind to it."""
        yield from self._metadata()
        slices = [*self._slices(), *self._num_in_flight(), *self._flows()]
        yield from sorted(slices, key=lambda event: float(event["ts"]))  # stable

    def _metadata(self) -> Iterator[Event]:
        named: set[int] = set()
        for (index, row), track in self.tracks.items():
            lane = self.lanes[index]
            if track.pid not in named:
                named.add(track.pid)
                yield _meta(track, "process_name", name=_PROCESSES[track.pid])
                yield _meta(track, "process_sort_index", sort_index=track.pid)
            name = lane.name + _SUFFIXES.get(lane.kind, "")
            yield _meta(track, "thread_name", name=name if row == 0 else f"{name} ({row + 1})")
            yield _meta(track, "thread_sort_index", sort_index=track.tid)

    def _slices(self) -> Iterator[Event]:
        for (index, row), track in self.tracks.items():
            lane = self.lanes[index]
            for box in lane.rows[row]:
                yield self._slice(track, lane, box)
                yield from self._runs(track, box)

    def _slice(self, track: _Track, lane: Lane, box: Box) -> Event:
        args: Event = {} if box.step is None else {"step": box.step}
        if box.failed:
            args["failed"] = True
        name = box.label if box.step is None else f"{box.label} #{box.step}"
        return self._complete(track, lane.kind, name, box.start_s, box.end_s, args)

    def _runs(self, track: _Track, box: Box) -> Iterator[Event]:
        """The stretches in which a stage that was suspended meanwhile did run."""
        if len(box.runs) > 1:
            for start_s, end_s in box.runs:
                yield self._complete(track, "host", "running", start_s, end_s, {"step": box.step})

    def _complete(
        self, track: _Track, cat: str, name: str, start_s: float, end_s: float, args: Event
    ) -> Event:
        start = self._ticks(start_s)
        return {
            "name": name,
            "cat": cat,
            "ph": "X",
            "ts": start / _TICKS_PER_US,
            "dur": (self._ticks(end_s) - start) / _TICKS_PER_US,
            "pid": track.pid,
            "tid": track.tid,
            "args": args,
        }

    def _flows(self) -> Iterator[Event]:
        for step, stops in self.recording.paths(self.lanes):
            bound = list(self._bind(stops))
            for index, (track, ticks) in enumerate(bound):
                if len(bound) == 1:
                    break
                last = index == len(bound) - 1
                event: Event = {
                    "name": "step",
                    "cat": "flow",
                    "ph": "s" if index == 0 else "f" if last else "t",
                    "id": step,
                    "ts": ticks / _TICKS_PER_US,
                    "pid": track.pid,
                    "tid": track.tid,
                }
                if last:
                    event["bp"] = "e"  # bind to the enclosing slice, not to the next one
                yield event

    def _bind(self, stops: list[Stop]) -> Iterator[tuple[_Track, int]]:
        """Find a moment inside each stop's slice; later ones after earlier ones.

        A stop whose slice is over by then (clocks of a device jitter) is left out.
        """
        former = -1
        for stop in stops:
            start, end = self._ticks(stop.box.start_s), self._ticks(stop.box.end_s)
            inset = min(_TICKS_PER_US, (end - start) // 2)
            ticks = max(end - inset if stop.at_end else start + inset, former + 1)
            if ticks <= end:
                former = ticks
                yield self.tracks[stop.lane, stop.row], ticks

    def _num_in_flight(self) -> Iterator[Event]:
        """Count steps from the end of forward to published."""
        joined = {r.step: r.end_s for r in self.recording.stages if _joins(r.stage, r.failed)}
        changes = [(at_s, 1) for at_s in joined.values()]
        changes += [(p.now_s, -1) for p in self.recording.published if p.step in joined]
        number = 0
        for at_s, change in sorted(changes):
            number += change
            yield {
                "name": "in flight",
                "ph": "C",
                "ts": self._ticks(at_s) / _TICKS_PER_US,
                "pid": _HOST_PID,
                "tid": _FIRST_TID,
                "args": {"steps": number},
            }

    def _ticks(self, at_s: float) -> int:
        return round((at_s - self.origin_s) * _TICKS_PER_S)


def _joins(stage: str, failed: bool) -> bool:
    return stage == "forward" or (stage == "prepare" and failed)


def _pid(lane: Lane) -> int:
    return _DEVICE_PID if lane.kind is LaneKind.DEVICE else _HOST_PID


def _meta(track: _Track, kind: str, **args: Any) -> Event:
    return {"name": kind, "ph": "M", "pid": track.pid, "tid": track.tid, "args": args}
