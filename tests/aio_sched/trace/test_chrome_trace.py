"""Chrome trace JSON, read back as strictly as Perfetto's importer reads it."""

import json
from collections import defaultdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aio_sched.trace import TraceRecorder
from aio_sched.trace.chrome import chrome_trace_json
from aio_sched.trace.recording import Published, Record, Recording, StageRun
from tests.aio_sched.scenes import record_steps, span

Event = dict[str, Any]
Key = tuple[int, int]


def load(recording: Recording) -> list[Event]:
    """Render a recording and read its events back."""
    document = json.loads(chrome_trace_json(recording))
    assert document["displayTimeUnit"] == "ms"
    events = document["traceEvents"]
    assert isinstance(events, list)
    return events


def nanoseconds(microseconds: float) -> int:
    """Convert as Perfetto does: it truncates."""
    return int(microseconds * 1000.0)


def slices_by_track(events: list[Event]) -> dict[Key, list[Event]]:
    """Collect the complete events, in the order of the file."""
    tracks: dict[Key, list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append(event)
    return tracks


def track_names(events: list[Event]) -> dict[Key, str]:
    """Read what the metadata calls the tracks."""
    return {
        (e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"
    }


def bound_slices(events: list[Event]) -> dict[int, list[tuple[str, Event]]]:
    """Bind flow events to the slice that encloses them, oldest first, as the importer does."""
    tracks = slices_by_track(events)
    flows: dict[int, list[tuple[str, Event]]] = defaultdict(list)
    for event in sorted((e for e in events if e["ph"] in "stf"), key=lambda e: float(e["ts"])):
        enclosing = [
            s
            for s in tracks[event["pid"], event["tid"]]
            if s["name"] != "running" and s["ts"] <= event["ts"] <= s["ts"] + s["dur"]
        ]
        assert len(enclosing) == 1, f"{event} is in {len(enclosing)} slices"
        flows[event["id"]].append((event["ph"], enclosing[0]))
    return flows


def assert_nested(events: list[Event]) -> None:
    """Fail where Perfetto would drop a slice: a partial overlap on one track."""
    for track in slices_by_track(events).values():
        open_until: list[int] = []
        former = 0
        for event in track:
            start = nanoseconds(event["ts"])
            end = start + nanoseconds(event["dur"])
            assert start >= former, "slices are in order of time"
            former = start
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1], f"{event} crosses its parent's end"
            open_until.append(end)


def test_tracks_are_named_and_sorted_like_the_lanes() -> None:
    """Host and device are processes; each lane is a track, overlapping publishes have two."""
    recorder = record_steps(3)
    recorder.add_stalls([(100.001, 100.002)])
    events = load(recorder.recording())
    names = track_names(events)
    assert list(names.values()) == [
        "prepare",
        "forward",
        "publish",
        "publish (2)",
        "schedule stream",
        "forward stream",
        "copy stream",
        "event loop stalls",
    ]
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert processes == {1: "host (event loop)", 2: "device"}
    order = {(e["pid"], e["tid"]): e["args"] for e in events if e["name"] == "thread_sort_index"}
    assert [order[track]["sort_index"] for track in names] == sorted(tid for _, tid in names)
    assert len({tid for _, tid in names}) == len(names)
    assert all(tid not in processes for _, tid in names)


def test_every_event_has_what_the_format_asks_for() -> None:
    """Phases are known, times are numbers from zero on, durations are not negative."""
    for event in load(record_steps(3).recording()):
        assert event["ph"] in {"M", "X", "C", "s", "t", "f"}
        assert {"name", "pid", "tid"} <= event.keys()
        if event["ph"] != "M":
            assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            assert event["cat"] in {"stage", "device", "loop", "host"}
        if event["ph"] in "stf":
            assert event["cat"] == "flow"
            assert (event.get("bp") == "e") == (event["ph"] == "f")


def test_slices_carry_step_and_times() -> None:
    """A slice says which step it is, when it began and how long it took, in microseconds."""
    events = load(record_steps(2).recording())
    spans = [e for e in events if e["name"] == "model #1" and e["args"]["step"] == 1]
    times = {track_names(events)[e["pid"], e["tid"]]: (e["ts"], e["dur"]) for e in spans}
    assert times == {
        "schedule stream": (13_000.0, 1_000.0),
        "forward stream": (18_000.0, 10_000.0),
        "copy stream": (28_000.0, 500.0),
    }


def test_flows_bind_prepare_forward_device_and_publish_of_one_step() -> None:
    """The arrows of a step share its number and touch the right slices, in order."""
    events = load(record_steps(4).recording())
    names = track_names(events)
    flows = bound_slices(events)
    assert list(flows) == [0, 1, 2, 3]
    for step, stations in flows.items():
        assert [phase for phase, _ in stations] == ["s", "t", "t", "f"]
        assert all(slice_["args"]["step"] == step for _, slice_ in stations)
        tracks = [names[slice_["pid"], slice_["tid"]].split(" (")[0] for _, slice_ in stations]
        assert tracks == ["prepare", "forward", "forward stream", "publish"]


def test_suspended_stage_shows_when_it_ran() -> None:
    """The runs of publish are slices within it; an uninterrupted stage has none."""
    events = load(record_steps(1).recording())
    names = track_names(events)
    running = [e for e in events if e["name"] == "running"]
    assert [names[e["pid"], e["tid"]] for e in running] == ["publish", "publish"]
    assert [(e["ts"], e["dur"]) for e in running] == [(5_000.0, 250.0), (17_000.0, 2_000.0)]
    assert_nested(events)


def test_counter_follows_steps_in_flight() -> None:
    """A step counts from the end of forward until it is published."""
    events = load(record_steps(3).recording())
    counts = [(e["ts"], e["args"]["steps"]) for e in events if e["ph"] == "C"]
    assert counts == [
        (5_000.0, 1),
        (17_000.0, 2),
        (19_000.0, 1),
        (29_000.0, 2),
        (31_000.0, 1),
        (43_000.0, 0),
    ]


def test_failed_prepare_counts_as_in_flight_and_is_marked() -> None:
    """A step that failed early is published too, as a failed one."""
    records: list[Record] = [StageRun(0, "prepare", 0.0, 1.0, True), Published(0, 2.0)]
    events = load(Recording.of(records, forward_stream="forward"))
    assert [e["args"]["steps"] for e in events if e["ph"] == "C"] == [1, 0]
    assert [e["args"] for e in events if e["ph"] == "X"] == [{"step": 0, "failed": True}]


def test_lone_station_draws_no_arrow() -> None:
    """A flow needs two ends; a step that is still on its way may have one only."""
    records: list[Record] = [StageRun(0, "forward", 0.0, 1.0, False)]
    assert not [e for e in load(Recording.of(records, forward_stream="forward")) if "id" in e]


def test_device_clock_that_lags_keeps_the_arrows_in_order() -> None:
    """A launch that seems to have run before it was made does not turn the arrow round."""
    records: list[Record] = [
        StageRun(0, "prepare", 0.0, 1.0, False),
        StageRun(0, "forward", 2.0, 3.0, False),
        span("forward", 1, 0, 1.0, 1.5),
        StageRun(0, "publish", 3.0, 4.0, False),
    ]
    flows = bound_slices(load(Recording.of(records, forward_stream="forward")))
    assert [(phase, s["name"]) for phase, s in flows[0]] == [
        ("s", "prepare #0"),
        ("t", "forward #0"),
        ("f", "publish #0"),
    ]


def test_empty_recording_is_a_valid_empty_trace() -> None:
    """Nothing happened, and the file says so."""
    assert load(TraceRecorder().recording()) == []


times = st.floats(0, 1e-3, allow_nan=False)


@given(st.lists(st.tuples(st.integers(0, 5), times, times), max_size=30))
def test_random_boxes_never_cross_whatever_the_rounding(
    boxes: list[tuple[int, float, float]],
) -> None:
    """However spans overlap or touch, no slice partly overlaps another on its track."""
    records: list[Record] = [
        StageRun(step, "publish", 1e4 + start, 1e4 + start + length, False)
        for step, start, length in boxes
    ]
    records += [
        span("forward", n, step, 1e4 + start, 1e4 + start + length)
        for n, (step, start, length) in enumerate(boxes)
    ]
    assert_nested(load(Recording.of(records, forward_stream="forward")))


@given(st.lists(times, min_size=1, max_size=30))
def test_random_neighbours_share_one_track(lengths: list[float]) -> None:
    """Spans that touch end to start stay on one track, and disjoint to the nanosecond."""
    at, records = 1e4 + 1 / 3, list[Record]()
    for number, length in enumerate(lengths):
        records.append(span("forward", number, number, at, at + length))
        at += length
    events = load(Recording.of(records, forward_stream="forward"))
    assert_nested(events)
    assert len(slices_by_track(events)) == 1
