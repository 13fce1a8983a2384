"""The picture: parsed as XML and checked by geometry, not by looks."""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aio_sched.trace import TraceRecorder
from aio_sched.trace.recording import Record, Recording, StageRun
from aio_sched.trace.timeline import Window, draw_timeline
from aio_sched.trace.timeline_style import FAILED
from tests.aio_sched.scenes import record_steps, span

SVG = "{http://www.w3.org/2000/svg}"


def parse(*windows: Window) -> Element:
    """Draw and read back; fails if it is no XML."""
    root = ElementTree.fromstring(draw_timeline(windows))
    assert root.tag == f"{SVG}svg"
    return root


def whole(recorder: TraceRecorder) -> Window:
    """Show all steps of a recorder."""
    recording = recorder.recording()
    return Window.of(recording, steps=(recording.steps[0], recording.steps[-1]))


def rects(root: Element, kind: str) -> Iterator[Element]:
    """Find the rectangles of a class."""
    return (r for r in root.iter(f"{SVG}rect") if r.get("class") == kind)


def number(element: Element, name: str) -> float:
    """Read a numeric attribute."""
    value = element.get(name)
    assert value is not None, f"{name} of {element.attrib}"
    return float(value)


def texts(root: Element, kind: str) -> list[str]:
    """Read the texts of a class."""
    return [t.text or "" for t in root.iter(f"{SVG}text") if t.get("class") == kind]


def lanes_of(root: Element) -> dict[tuple[str, float], list[tuple[float, float]]]:
    """Collect the boxes (left, right) of each row of the picture, from left to right."""
    lanes: dict[tuple[str, float], list[tuple[float, float]]] = defaultdict(list)
    for box in rects(root, "box"):
        left = number(box, "x")
        row = box.attrib["data-lane"], number(box, "y")
        lanes[row].append((left, left + number(box, "width")))
    return {row: sorted(boxes) for row, boxes in lanes.items()}


def assert_disjoint(root: Element) -> None:
    """No box touches another one's inside in its row, and each row has its own height."""
    for boxes in lanes_of(root).values():
        for (_, right), (left, _) in pairwise(boxes):
            assert right <= left + 0.011  # two decimals
    heights = [y for _, y in lanes_of(root)]
    assert len(set(heights)) == len(heights)


def test_steps_show_in_lanes_in_the_order_of_their_way() -> None:
    """From prepare down to publish, each stage above the device streams that it fills."""
    root = parse(whole(record_steps(3)))
    assert texts(root, "lane") == [
        "prepare",
        "schedule",
        "forward",
        "forward",
        "copy",
        "publish",
        "",
    ]
    assert_disjoint(root)
    assert [lane for lane, _ in sorted(lanes_of(root), key=lambda row: row[1])] == [
        "stage/prepare/0",
        "device/schedule/0",
        "stage/forward/0",
        "device/forward/0",
        "device/copy/0",
        "stage/publish/0",
        "stage/publish/1",
    ]


def test_boxes_are_as_wide_as_their_time() -> None:
    """All boxes share one scale, that of the axis."""
    root = parse(whole(record_steps(2)))
    scale = (960 - 112 - 14) / 31  # pixels a millisecond: the window is 31 ms long
    forward = [
        number(b, "width") for b in rects(root, "box") if b.get("data-lane") == "device/forward/0"
    ]
    assert forward == pytest.approx([10 * scale, 10 * scale], abs=0.02)
    ticks = [t for t in root.iter(f"{SVG}text") if t.get("class") == "tick"]
    assert [t.text for t in ticks] == ["0 ms", "5", "10", "15", "20", "25", "30"]
    assert number(ticks[1], "x") - number(ticks[0], "x") == pytest.approx(5 * scale, abs=0.02)


def test_box_says_step_and_time_and_colour_is_the_steps() -> None:
    """The number and the tooltip name the step; all boxes of a step look alike."""
    root = parse(whole(record_steps(3)))
    colours = defaultdict(set)
    for box in rects(root, "box"):
        colours[box.get("data-step")].add(box.get("fill"))
    assert {step: len(found) for step, found in colours.items()} == {"0": 1, "1": 1, "2": 1}
    assert len(set.union(*colours.values())) == 3
    assert texts(root, "number").count("1") == 6
    tooltips = [t.text for t in root.iter(f"{SVG}title")]
    assert "model of step 1: 10.000 ms" in tooltips


def test_gap_of_the_forward_stream_is_hatched_with_its_cause() -> None:
    """Between two steps: waiting for room, then the next prepare and forward, then the device."""
    root = parse(whole(record_steps(2)))
    bubbles = [(b.get("data-cause"), b.get("data-ms")) for b in rects(root, "bubble")]
    assert bubbles == [
        ("host_prepare", "4.500"),
        ("device", "1.500"),
        ("host_prepare", "0.500"),
        ("device", "1.500"),
        ("publish", "3.000"),
    ]
    assert next(b.get("fill") for b in rects(root, "bubble")) == "url(#host_prepare)"
    assert texts(root, "summary") == ["forward stream busy 64.5 % of this window"]
    assert "bubble: publish" in texts(root, "legend")
    assert "empty queue" not in texts(root, "legend")
    forward = next(b for b in rects(root, "box") if b.get("data-lane") == "device/forward/0")
    assert {b.get("y") for b in rects(root, "bubble")} == {forward.get("y")}


def test_arrows_lead_from_box_to_box() -> None:
    """Each step has three, from edge to edge of its own boxes."""
    root = parse(whole(record_steps(2)))
    arrows = [p.attrib["d"] for p in root.iter(f"{SVG}path") if p.get("class") == "flow"]
    assert len(arrows) == 6
    corners = [
        (x, y)
        for (_, top), boxes in lanes_of(root).items()
        for box in boxes
        for x in box
        for y in (top, top + 22)
    ]
    for path in arrows:
        numbers = [float(n) for n in re.findall(r"[\d.]+", path)]
        assert any(numbers[:2] == pytest.approx(corner, abs=0.02) for corner in corners)
        assert any(numbers[-2:] == pytest.approx(corner, abs=0.02) for corner in corners)


def test_suspended_stage_is_pale_where_it_waited() -> None:
    """Publish waits for the device most of its time, prepare never."""
    root = parse(whole(record_steps(1)))
    pale = {b.get("data-lane") for b in rects(root, "box") if b.get("fill-opacity")}
    assert pale == {"stage/publish/0"}
    assert len(list(rects(root, "run"))) == 2
    assert "suspended" in texts(root, "legend")


def test_neighbours_are_cut_off_at_the_window() -> None:
    """What other steps did meanwhile is shown, but nothing leaves the picture."""
    root = parse(Window.of(record_steps(5).recording(), steps=(2, 2)))
    assert {b.get("data-step") for b in rects(root, "box")} == {"1", "2", "3"}
    for kind in ("box", "run", "bubble"):
        for shape in rects(root, kind):
            assert number(shape, "x") >= 112
            assert number(shape, "x") + number(shape, "width") <= 960 - 14 + 1.21


def test_newest_finished_steps_are_the_default() -> None:
    """Six of them; a step still in flight is not among them."""
    recorder = record_steps(10)
    recorder.stage(10, "forward", 101.0, 101.1, False)
    assert Window.of(recorder.recording()).steps == (4, 9)
    assert Window.of(recorder.recording(), last=2).steps == (8, 9)
    assert Window.of(recorder.recording(), last=99).steps == (0, 9)


def test_nothing_published_yet_shows_what_was_forwarded() -> None:
    """A hung scheduler's trace is the one that has to be looked at."""
    recorder = TraceRecorder()
    recorder.stage(3, "forward", 1.0, 2.0, False)
    assert Window.of(recorder.recording()).steps == (3, 3)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"steps": (1, 2), "last": 3}, r"steps=\(1, 2\) and last=3 both choose"),
        ({"last": 0}, "last=0 shows nothing"),
        ({"steps": (7, 9)}, "nothing of steps 7 to 9 is in the trace; recorded are 0 to 2"),
    ],
)
def test_window_that_shows_nothing_is_refused(how: dict[str, object], message: str) -> None:
    """The error says what there is."""
    with pytest.raises(ValueError, match=message):
        Window.of(record_steps(3).recording(), **how)  # type: ignore[arg-type]  # parametrized


def test_empty_trace_is_refused() -> None:
    """There is nothing to draw, and it says why."""
    with pytest.raises(ValueError, match="no step was recorded, and 0 older events"):
        Window.of(TraceRecorder().recording())
    with pytest.raises(ValueError, match="no window to draw"):
        draw_timeline([])


def test_two_windows_share_scale_and_legend() -> None:
    """Schedules can be compared by eye: a millisecond is as wide in both."""
    fast, slow = record_steps(2), record_steps(2, apart_s=0.024)
    root = parse(
        Window.of(fast.recording(), title="A & <B>"), Window.of(slow.recording(), title="slow")
    )
    assert texts(root, "title") == ["A & <B>", "slow"]
    widths = [
        number(b, "width") for b in rects(root, "box") if b.get("data-lane") == "device/forward/0"
    ]
    assert widths == pytest.approx([widths[0]] * 4, abs=0.02)
    assert texts(root, "legend").count("suspended") == 1
    assert max(right for boxes in lanes_of(root).values() for _, right in boxes) <= 960 - 14
    assert_disjoint(root)


def test_stalls_of_the_loop_come_last() -> None:
    """Nothing ran meanwhile, so they belong to no step."""
    recorder = record_steps(1)
    recorder.add_stalls([(100.010, 100.012)])
    root = parse(whole(recorder))
    assert texts(root, "lane")[-1] == "event loop"
    assert texts(root, "kind")[-1] == "stalls"
    [stall] = [b for b in rects(root, "box") if b.get("data-lane") == "loop/event loop/0"]
    assert stall.get("data-step") is None


def test_failed_work_stands_out() -> None:
    """It has a colour of its own, and the legend says so."""
    recorder = TraceRecorder()
    recorder.stage(0, "forward", 1.0, 2.0, True)
    root = parse(whole(recorder))
    assert [b.get("fill") for b in rects(root, "box")] == [FAILED]
    assert "failed" in texts(root, "legend")


def test_device_that_measures_nothing_has_no_bubbles() -> None:
    """Where no span is known, no idleness is claimed."""
    recorder = TraceRecorder()
    recorder.stage(0, "forward", 1.0, 2.0, False)
    root = parse(whole(recorder))
    assert list(rects(root, "bubble")) == []
    assert texts(root, "summary") == []


def test_hundred_launches_of_a_step_become_one_box() -> None:
    """What the scale cannot keep apart is drawn as one, so that pictures stay small."""
    records: list[Record] = [StageRun(0, "forward", 0.0, 1.0, False)]
    records += [span("forward", n, 0, n * 0.001, n * 0.001 + 0.0009) for n in range(100)]
    root = parse(Window.of(Recording.of(records, forward_stream="forward")))
    boxes = [b for b in rects(root, "box") if b.get("data-lane") == "device/forward/0"]
    assert [round(number(b, "width")) for b in boxes] == [round(834 * 0.0999)]


def test_hairs_are_widened_only_as_far_as_there_is_room() -> None:
    """A launch too short to see gets a pixel, but never its neighbour's."""
    records: list[Record] = [StageRun(0, "forward", 0.0, 0.834, False)]  # a pixel a millisecond
    for n, at_ms in enumerate((0.0, 0.5, 100.0)):
        at_s = at_ms / 1000
        records.append(span("forward", n, n, at_s, at_s + 0.0001))
    root = parse(Window.of(Recording.of(records, forward_stream="forward")))
    forward = {box.get("data-lane"): box for box in rects(root, "box")}["device/forward/0"]
    [boxes] = [b for (lane, _), b in lanes_of(root).items() if lane == forward.get("data-lane")]
    assert boxes == [(112.0, 112.5), (112.5, 113.7), (212.0, 213.2)]


times = st.floats(0, 1e-2, allow_nan=False)


@given(st.lists(st.tuples(st.integers(0, 9), times, times), min_size=1, max_size=25))
def test_random_steps_never_overlap_in_a_row(boxes: list[tuple[int, float, float]]) -> None:
    """Whatever overlaps gets a row of its own, and a hair's minimal width hides no neighbour."""
    records: list[Record] = [StageRun(0, "forward", 50.0, 50.02, False)]
    records += [StageRun(s, "publish", 50 + at, 50 + at + took, False) for s, at, took in boxes]
    records += [span("forward", s, s, 50 + at, 50 + at + took) for s, at, took in boxes]
    assert_disjoint(parse(Window.of(Recording.of(records, forward_stream="forward"))))
