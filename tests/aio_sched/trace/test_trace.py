"""The recorder: bounded memory, real schedulers, files."""

import asyncio
import json
import threading
from pathlib import Path
from xml.etree import ElementTree

import pytest

from aio_sched.loop import OverlapScheduler, SequentialScheduler
from aio_sched.trace import TraceRecorder
from streams.device import open_device
from tests.aio_sched.pipelines import Doubler
from tests.aio_sched.scenes import record_steps, span
from tests.aio_sched.trace.test_chrome_trace import assert_nested, bound_slices, load


def test_full_recorder_keeps_the_newest_and_counts_the_rest() -> None:
    """Memory is bounded, and the trace says what is missing."""
    recorder = TraceRecorder(max_events=3)
    for step in range(10):
        recorder.published(step, float(step))
    recording = recorder.recording()
    assert [p.step for p in recording.published] == [7, 8, 9]
    assert recording.num_dropped == 7
    assert repr(recorder) == "<TraceRecorder 3 of at most 3 events>"


def test_recorder_with_room_has_dropped_nothing() -> None:
    """An empty one neither."""
    assert TraceRecorder().recording().num_dropped == 0
    assert record_steps(3).recording().num_dropped == 0


def test_recorder_without_room_is_refused() -> None:
    """A limit that keeps nothing is a mistake."""
    with pytest.raises(ValueError, match="max_events=0 keeps nothing; use at least 1"):
        TraceRecorder(max_events=0)


def test_unknown_state_is_refused() -> None:
    """A state that is none would have no cause."""
    with pytest.raises(ValueError, match="'busy' is unknown"):
        TraceRecorder().state("busy", 0.0)


def test_threads_that_record_at_once_lose_nothing() -> None:
    """Every append of every thread is kept or counted as dropped."""
    recorder = TraceRecorder(max_events=1000)
    start = threading.Barrier(4)

    def record() -> None:
        start.wait()
        for number in range(500):
            recorder.on_span(span("forward", number, number, 0.0, 1.0))

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recording = recorder.recording()
    assert len(recording.spans) == 1000
    assert recording.num_dropped == 1000


def test_written_file_says_what_it_is(tmp_path: Path) -> None:
    """The file is JSON, and tells its clock and its gaps."""
    recorder = TraceRecorder(max_events=2)
    for step in range(5):
        recorder.stage(step, "prepare", 7.0 + step, 7.5 + step, False)
    recorder.write(tmp_path / "trace.json")
    document = json.loads((tmp_path / "trace.json").read_text())
    assert document["otherData"] == {
        "producer": "aio-sched",
        "clock": "time.perf_counter",
        "clock_at_zero_s": 10.0,
        "dropped_events": 3,
    }


def test_path_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    """The caller hears of it, with the path."""
    for write in (record_steps(1).write, record_steps(1).picture):
        with pytest.raises(FileNotFoundError, match="missing"):
            write(tmp_path / "missing" / "file")


@pytest.mark.parametrize("kind", [OverlapScheduler, SequentialScheduler])
async def test_real_scheduler_leaves_a_complete_trace(
    kind: type[OverlapScheduler | SequentialScheduler], tmp_path: Path
) -> None:
    """Every step of a run is there, with all stations and well-formed slices."""
    recorder = TraceRecorder()
    pipeline = Doubler(list(range(12)))
    with open_device("cpu") as device:
        async with (
            asyncio.timeout(20.0),
            kind(pipeline, device, monitors=(recorder,)),
        ):
            await pipeline.all_ended.wait()
    recording = recorder.recording()
    assert recording.num_dropped == 0
    assert recording.steps == tuple(range(12))
    assert [p.step for p in recording.published] == list(range(12))
    assert [change.state.value for change in recording.states][-1] == "stopped"
    events = load(recording)
    assert_nested(events)
    flows = bound_slices(events)
    assert list(flows) == list(range(12))
    for stations in flows.values():
        assert [phase for phase, _ in stations] == ["s", "t", "t", "f"]
    recorder.picture(tmp_path / "picture.svg", last=4)
    assert ElementTree.parse(tmp_path / "picture.svg").getroot().tag.endswith("svg")


async def test_sequential_scheduler_waits_for_room_after_each_step() -> None:
    """While it publishes, results are what it waits for, not the host's next prepare."""
    recorder = TraceRecorder()
    pipeline = Doubler([1, 2])
    async with asyncio.timeout(20.0), SequentialScheduler(pipeline, "cpu", monitors=(recorder,)):
        await pipeline.all_ended.wait()
    states = [change.state.value for change in recorder.recording().states]
    assert states[:6] == ["prepare", "forward", "room"] * 2
