"""How a recording sorts what was collected into lanes and ways."""

from aio_sched.trace.recording import HostRun, LaneKind, Recording, StageRun, Stall
from streams.monitor import Span
from tests.aio_sched.scenes import record_steps, span


def of(*records: StageRun | HostRun | Span | Stall) -> Recording:
    """Make a recording of a few records."""
    return Recording.of(records, forward_stream="forward")


def test_steps_give_a_lane_per_stage_and_stream() -> None:
    """Stages come first, then streams in the order in which a step passes them."""
    lanes = record_steps(3).recording().lanes()
    assert [(lane.kind.value, lane.name) for lane in lanes] == [
        ("stage", "prepare"),
        ("stage", "forward"),
        ("stage", "publish"),
        ("device", "schedule"),
        ("device", "forward"),
        ("device", "copy"),
    ]
    assert [box.step for box in lanes[4].rows[0]] == [0, 1, 2]


def test_overlapping_publishes_get_rows_of_their_own() -> None:
    """Boxes of one row never overlap; a row is used again once it is free."""
    publish = record_steps(4).recording().lanes()[2]
    assert [[box.step for box in row] for row in publish.rows] == [[0, 2], [1, 3]]


def test_stalls_get_a_lane_only_if_there_are_any() -> None:
    """A loop without stalls takes no room."""
    recorder = record_steps(1)
    assert LaneKind.LOOP not in {lane.kind for lane in recorder.recording().lanes()}
    recorder.add_stalls([(100.0, 100.5)])
    loop = recorder.recording().lanes()[-1]
    assert (loop.kind, loop.name) == (LaneKind.LOOP, "event loop")
    assert [(box.start_s, box.end_s) for box in loop.rows[0]] == [(100.0, 100.5)]


def test_records_in_any_order_come_out_sorted() -> None:
    """Worker threads tell late; the lanes are in order of time all the same."""
    spans = [span("forward", n, n, float(n), n + 1.0) for n in (3, 1, 2)]
    assert [s.start_s for s in of(*spans).spans] == [1.0, 2.0, 3.0]


def test_spans_of_a_stream_stay_in_one_row_though_clocks_jitter() -> None:
    """A stream runs one launch after the other; the later one gives way."""
    [lane] = of(span("forward", 1, 0, 0.0, 2.0), span("forward", 2, 1, 1.9, 3.0)).lanes()
    assert [[(box.start_s, box.end_s) for box in row] for row in lane.rows] == [
        [(0.0, 2.0), (2.0, 3.0)]
    ]


def test_stage_box_knows_when_its_code_ran() -> None:
    """The runs of a stage belong to its box, those of other stages do not."""
    publish = record_steps(2).recording().lanes()[2].rows[0][0]
    milliseconds = [
        (round((start - 100.0) * 1000, 6), round((end - 100.0) * 1000, 6))
        for start, end in publish.runs
    ]
    assert milliseconds == [(5.0, 5.25), (17.0, 19.0)]


def test_runs_go_to_the_prepare_that_they_were_part_of() -> None:
    """Two prepares with one number do not share their runs."""
    recording = of(
        StageRun(0, "prepare", 0.0, 1.0, False),
        HostRun(0, "prepare", 0.0, 1.0),
        StageRun(0, "prepare", 5.0, 7.0, False),
        HostRun(0, "prepare", 5.5, 6.0),
    )
    [lane] = recording.lanes()
    assert [box.runs for box in lane.rows[0]] == [((0.0, 1.0),), ((5.5, 6.0),)]


def test_way_of_a_step_leads_from_prepare_to_publish() -> None:
    """Each way passes prepare, forward, the forward stream and publish, of one step."""
    recording = record_steps(2).recording()
    lanes = recording.lanes()
    ways = dict(recording.paths(lanes))
    assert list(ways) == [0, 1]
    for step, stops in ways.items():
        assert [lanes[stop.lane].name for stop in stops] == [
            "prepare",
            "forward",
            "forward",
            "publish",
        ]
        assert [lanes[stop.lane].kind.value for stop in stops] == [
            "stage",
            "stage",
            "device",
            "stage",
        ]
        for stop in stops:
            assert stop.box.step == step
            assert stop.box in lanes[stop.lane].rows[stop.row]


def test_way_begins_at_the_prepare_that_found_work() -> None:
    """Idle prepares before it carried the same number."""
    recording = of(
        StageRun(0, "prepare", 0.0, 1.0, False),
        StageRun(0, "prepare", 5.0, 6.0, False),
        StageRun(0, "forward", 6.0, 7.0, False),
    )
    [(_, stops)] = recording.paths(recording.lanes())
    assert [stop.box.start_s for stop in stops] == [5.0, 6.0]


def test_way_spans_all_launches_of_a_forward() -> None:
    """It enters the device at the first launch and leaves it at the end of the last one."""
    recording = of(
        StageRun(0, "forward", 0.0, 1.0, False),
        span("forward", 1, 0, 1.0, 2.0),
        span("forward", 2, 0, 3.0, 4.0),
    )
    [(_, stops)] = recording.paths(recording.lanes())
    assert (stops[-1].box.start_s, stops[-1].last.end_s) == (1.0, 4.0)


def test_work_of_unknown_origin_is_shown_without_a_step() -> None:
    """A launch from outside of any stage has a lane, but no way."""
    recording = of(Span("mine", "warm_up", 1, None, 0.0, 1.0, failed=True))
    [lane] = recording.lanes()
    assert (lane.name, lane.rows[0][0].step, lane.rows[0][0].failed) == ("mine", None, True)
    assert list(recording.paths([lane])) == []
