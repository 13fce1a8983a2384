"""Which native calls are made, in which order, on which thread."""

import threading

import pytest
import torch

from streams.accelerator import AcceleratorDevice
from streams.current import use_stream
from streams.errors import DeviceClosedError
from tests.streams.accelerator.tools import handle_of, opened, stream_of
from tests.streams.conformance.work import nothing
from tests.streams.fake_torch import FakeTorch


def test_gates_come_before_the_function_and_the_record_behind_it(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """Waits, then the function under its stream, then the record; complete gates cost nothing."""
    one, two, stream = (stream_of(device, name) for name in ("one", "two", "s"))
    one.launch(fake.hold)
    two.launch(fake.hold)
    awaited = [entry[2] for entry in fake.named("record")]
    three = stream_of(device, "three")
    three.launch(nothing).result()
    stream.wait_stream(one)
    stream.wait_stream(two)
    stream.wait_stream(three)
    fake.log.clear()
    stream.launch(lambda: fake.call("function", fake.current().cuda_stream))
    mine, default = handle_of(stream), 0
    assert fake.log[:-1] == [
        ("wait", mine, awaited[0]),
        ("wait", mine, awaited[1]),
        ("set stream", 0, mine),
        ("function", mine),
        ("set stream", 0, default),
    ]
    assert fake.log[-1][:2] == ("record", mine)


def test_wait_binds_to_the_awaited_record(fake: FakeTorch, device: AcceleratorDevice) -> None:
    """The native wait is for the event of that number, not for the stream's last one."""
    producer, consumer = stream_of(device, "producer"), stream_of(device, "consumer")
    flags = [producer.launch(fake.hold).issued_value()]
    first = producer.record("first")
    producer.launch(fake.hold)
    consumer.wait_event(first)
    seen = consumer.launch(nothing)
    assert not seen.query()
    flags[0].set()
    assert seen.query()


def test_record_covers_plain_torch_calls(fake: FakeTorch, device: AcceleratorDevice) -> None:
    """Work that went round ``launch`` while the stream was current is not overlooked."""
    stream, other = stream_of(device, "s"), stream_of(device, "other")
    with use_stream(stream):
        stream.launch(nothing)
        fake.hold()
        inside = stream.record("inside")
    assert not inside.query()
    fake.release_holds()
    assert inside.query()
    with use_stream(stream):
        fake.hold()
    other.wait_stream(stream)
    behind = other.launch(nothing)
    assert not behind.query()
    fake.release_holds()
    assert behind.query()


def test_plain_torch_calls_come_behind_the_waits(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """Waits asked for before a block, or inside it, hold back what the block does."""
    one, two, stream = (stream_of(device, name) for name in ("one", "two", "s"))
    held = [one.launch(fake.hold), two.launch(fake.hold)]
    stream.wait_event(held[0].event)
    fake.log.clear()
    with use_stream(stream):
        fake.call("plain")
        stream.wait_event(held[1].event)
        fake.call("plain")
    assert [entry[0] for entry in fake.log] == [
        *("wait", "record", "set stream", "plain"),
        *("wait", "record", "plain", "set stream"),
    ]


def test_nothing_is_recorded_twice_outside_of_blocks(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """A launch's own function is no plain call: a record behind it costs nothing."""
    stream = stream_of(device, "s")
    with use_stream(stream):
        stream.launch(nothing)
    stream.launch(nothing)
    fake.log.clear()
    stream.record("end")
    assert fake.log == []


def test_current_device_of_the_caller_is_given_back(fake: FakeTorch) -> None:
    """Using a stream of another device leaves both devices' streams as they were."""
    theirs = [fake.cuda.Stream(torch.device("cuda", index)) for index in (1, 0)]
    for stream in theirs:
        fake.set_current(stream)
    with AcceleratorDevice("cuda", 1, issue="inline", timing=False) as device:
        ours = stream_of(device, "s")
        with use_stream(ours):
            assert fake.current().cuda_stream == handle_of(ours)
        assert fake.current() is theirs[1]
        assert fake.current(1) is theirs[0]


def test_issuer_thread_makes_all_calls_in_the_order_asked_for(fake: FakeTorch) -> None:
    """With ``issue="thread"`` every native call is the issuer's, in program order."""
    with opened(fake, "thread") as device:
        one, two = stream_of(device, "one"), stream_of(device, "two")
        gate, threads, calls = threading.Event(), set(), []

        def note(what: int) -> None:
            threads.add(threading.current_thread().name)
            calls.append(what)

        one.launch(gate.wait)
        launches = []
        for index in range(6):
            stream = (one, two)[index % 2]
            launches.append(stream.launch(note, index))
            (two, one)[index % 2].wait_event(launches[-1].event)
        assert calls == []
        assert fake.named("record", "wait") == []
        assert not launches[-1].query()
        gate.set()
        two.block_until(launches[-1].event.number)
        assert calls == list(range(6))
        assert threads == {f"aio-sched-issue-{device.name}"}
        handles = [entry[1] for entry in fake.named("record")]
        a, b = handle_of(one), handle_of(two)
        assert handles == [a, a, b, a, b, a, b]


def test_close_with_a_full_issuer_queue_drops_it(fake: FakeTorch) -> None:
    """The call in progress ends, what is queued behind it never begins."""
    with opened(fake, "thread") as device:
        stream = stream_of(device, "s")
        entered, gate, calls = threading.Event(), threading.Event(), []

        def first() -> None:
            entered.set()
            gate.wait()
            calls.append("first")

        launch = stream.launch(first)
        stream.launch(calls.append, "second")
        entered.wait()
        closer = threading.Thread(target=device.close)
        closer.start()
        while not device.is_closed:
            pass
        gate.set()
        closer.join()
        assert calls == ["first"]
        assert launch.result() is None


def test_work_behind_a_stream_closed_before_its_issue_fails(fake: FakeTorch) -> None:
    """A gate that will never be issued fails its waiter; the stream goes on."""
    with opened(fake, "thread") as device:
        closing, waiter = stream_of(device, "closing"), stream_of(device, "waiter")
        gate = threading.Event()
        closing.launch(gate.wait)
        dropped = closing.launch(nothing)
        waiter.wait_event(dropped.event)
        behind, after = waiter.launch(nothing), waiter.launch(nothing)
        closer = threading.Thread(target=closing.close)
        closer.start()
        while not closing.is_closed:
            pass
        gate.set()
        closer.join()
        waiter.block_until(after.event.number)
        assert after.result() is None
        for launch in (behind, dropped):
            with pytest.raises(DeviceClosedError, match="await it before closing"):
                launch.result()


def test_capture_waits_for_the_issuer(fake: FakeTorch) -> None:
    """Launches that were put before a capture are issued before it opens."""
    with opened(fake, "thread") as device:
        stream = stream_of(device, "s")
        launches = [stream.launch(nothing) for _ in range(20)]
        with device.capture():
            assert len(fake.named("record")) == 20
        stream.block_until(launches[-1].event.number)


def test_events_of_waiter_threads_sleep(fake: FakeTorch, device: AcceleratorDevice) -> None:
    """CUDA events are made with the flag that lets ``synchronize`` sleep, not spin."""
    stream_of(device, "s").launch(nothing)
    assert [event.options for event in fake.all_events] == [
        {"enable_timing": False, "blocking": True}
    ]
