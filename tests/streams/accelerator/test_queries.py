"""What is asked of the device, and when nothing is."""

import threading
import weakref

import pytest
import torch

from streams.accelerator import AcceleratorDevice
from streams.current import use_stream
from streams.errors import CaptureOpenError
from tests.streams.accelerator.tools import stream_of
from tests.streams.conformance.work import BoomError, boom, nothing
from tests.streams.fake_torch import FakeTorch


def test_advance_queries_the_awaited_event_alone(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """One query serves all waiters of a stream, however many operations are in flight."""
    stream = stream_of(device, "s")
    for _ in range(4):
        launch = stream.launch(nothing)
    fake.log.clear()
    assert stream.advance(launch.event.number) == 4
    assert [entry[0] for entry in fake.log] == ["query"]
    stream.advance(2)
    assert len(fake.log) == 1


def test_what_was_waited_for_is_complete_without_a_query(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """Seeing ``copy_done`` moves the counters, and frees the memory, of what led to it."""
    schedule, forward, copy = (stream_of(device, n) for n in ("schedule", "forward", "copy"))
    tensors = [torch.ones(1), torch.ones(1)]
    refs = [weakref.ref(tensor) for tensor in tensors]
    schedule.launch(id, tensors[0])
    forward.wait_stream(schedule)
    forward.launch(id, tensors[1])
    copy.wait_stream(forward)
    copy_done = copy.record("copy_done")
    del tensors
    assert all(ref() is not None for ref in refs)
    fake.log.clear()
    assert copy_done.query()
    assert len(fake.named("query")) == 1
    assert [ref() for ref in refs] == [None, None]
    assert (schedule.completed, forward.completed) == (1, 1)


def test_streams_that_wait_for_each_other_in_turn_pass_once(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """Progress that leads back to a stream does not finish its operations twice."""
    one, two = stream_of(device, "one"), stream_of(device, "two")
    for _ in range(6):
        one.launch(nothing)
        two.wait_stream(one)
        two.launch(nothing)
        one.wait_stream(two)
    last = one.launch(nothing)
    assert last.query()
    assert len(device._spare_events) == len(set(map(id, device._spare_events)))
    assert (one.completed, two.completed) == (7, 6)


def test_nothing_is_queried_while_a_capture_is_open(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """Polling inside ``capture`` answers with what is known; blocking and launching raise."""
    stream = stream_of(device, "s")
    event = stream.launch(nothing).event
    with device.capture(), fake.graph_capture():
        assert not event.query()
        with pytest.raises(CaptureOpenError, match="cannot wait for a device"):
            stream.block_until(event.number)
        with pytest.raises(CaptureOpenError, match="cannot put work on a stream"):
            stream.launch(nothing)
    assert event.query()


def test_stream_made_current_in_a_capture_is_left_alone(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """Waits that are still to be made stay out of the graph, and hold the next launch back."""
    stream, other = stream_of(device, "s"), stream_of(device, "other")
    held = other.launch(fake.hold)
    stream.wait_event(held.event)
    fake.log.clear()
    with device.capture(), use_stream(stream):
        assert [entry[0] for entry in fake.log] == ["set stream"]
    behind = stream.launch(nothing)
    assert not behind.query()


def test_other_threads_wait_for_the_end_of_a_capture(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """A waiter thread makes no native call until the capture is closed."""
    stream = stream_of(device, "s")
    number = stream.launch(nothing).event.number
    with device.capture():
        thread = threading.Thread(target=stream.block_until, args=(number,))
        thread.start()
        assert fake.named("synchronize", "query") == []
    thread.join()
    assert stream.completed == number


def test_failed_launch_inside_a_capture_is_not_probed(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """A function that fails after opening a capture leaves the device usable."""
    stream = stream_of(device, "s")

    def fail_in_capture() -> None:
        with device.capture(), fake.graph_capture():
            boom()

    with pytest.raises(BoomError):
        stream.launch(fail_in_capture).result()
    assert device.lost is None


def test_failed_launch_beside_a_capture_is_not_probed(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """While another thread captures, no query finds out whose an error is."""
    stream = stream_of(device, "s")
    opened, done = threading.Event(), threading.Event()

    def capture() -> None:
        with device.capture(), fake.graph_capture():
            opened.set()
            done.wait()

    thread = threading.Thread(target=capture)
    thread.start()
    opened.wait()
    launch = stream.launch(boom)
    done.set()
    thread.join()
    with pytest.raises(BoomError):
        launch.result()
    assert device.lost is None
