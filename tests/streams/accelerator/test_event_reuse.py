"""When a native event is recorded again."""

import threading

from streams.accelerator import AcceleratorDevice
from tests.streams.accelerator.tools import stream_of
from tests.streams.conformance.work import nothing
from tests.streams.fake_torch import FakeTorch


def test_event_is_not_recorded_again_before_its_completion_is_known(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """While the counter has not passed it, each operation needs an event of its own."""
    stream = stream_of(device, "s")
    stream.launch(fake.hold)
    for _ in range(5):
        stream.launch(nothing)
    recorded = [entry[2] for entry in fake.named("record")]
    assert len(set(recorded)) == 6


def test_passed_events_are_recorded_again(fake: FakeTorch, device: AcceleratorDevice) -> None:
    """In steady state no native event is made."""
    stream, other = stream_of(device, "s"), stream_of(device, "other")
    for _ in range(50):
        other.launch(nothing, stream.launch(nothing))
        other.advance(other.record("done").number)
    assert len(fake.all_events) <= 3


def test_event_that_a_thread_blocks_on_is_not_recorded_again(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """A waiter thread must not be rebound to a later record of the same native event."""
    stream = stream_of(device, "s")
    flag = stream.launch(fake.hold).issued_value()
    number = stream.record("end").number
    thread = threading.Thread(target=stream.block_until, args=(number,))
    thread.start()
    while not fake.named("synchronize"):
        pass
    (_, held), *_ = fake.named("synchronize")
    flag.set()
    assert stream.advance(number) == number
    stream.launch(nothing)
    again = fake.named("record")[-1][2]
    fake.wake()
    thread.join()
    assert again != held


def test_record_right_after_a_launch_records_nothing_natively(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """The launch's own event is that point already."""
    stream = stream_of(device, "s")
    launch = stream.launch(nothing)
    assert stream.record("a").number == stream.record("b").number == launch.event.number
    assert len(fake.named("record")) == 1
