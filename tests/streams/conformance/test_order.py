"""In which order work runs: within a stream, across streams, and around events."""

import pytest

from streams.device import Device
from streams.errors import EventNotRecordedError
from streams.event import Event
from tests.device_fixtures import Bench, Cells, HoldFactory
from tests.streams.conformance.work import append, copy_of, fill, nothing


async def test_launches_of_one_stream_run_in_order(device: Device, cells: Cells) -> None:
    """A device stream is a FIFO queue."""
    stream, cell = device.stream("s"), cells(0)
    for digit in range(1, 9):
        stream.launch(append, cell, digit, reads=[cell], writes=[cell])
    await stream.record("all")
    assert cell.tolist() == [12345678]


async def test_launch_never_waits_for_the_device(device: Device, hold: HoldFactory) -> None:
    """``launch`` and ``record`` return while the stream is occupied."""
    stream = device.stream("s")
    held = hold(stream)
    behind = stream.launch(nothing)
    event = stream.record("end")
    assert not held.launch.query()
    assert not behind.query()
    assert not event.query()
    held.release()
    await event
    assert held.launch.query()
    assert behind.query()


async def test_record_covers_only_what_came_before(device: Device, hold: HoldFactory) -> None:
    """An event completes although later work of its stream is still queued."""
    stream = device.stream("s")
    stream.launch(nothing)
    event = stream.record("early")
    held = hold(stream)
    await event
    assert not held.launch.query()
    held.release()
    await held.launch


async def test_recording_again_makes_another_event(device: Device, hold: HoldFactory) -> None:
    """A second record under the same label does not rebind the first."""
    stream = device.stream("s")
    first = stream.record("done")
    held = hold(stream)
    second = stream.record("done")
    assert first is not second
    assert first.query()
    assert not second.query()
    held.release()
    await second


async def test_waiter_of_first_record_ignores_the_second(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """A device-side wait stays bound to the record that it was given."""
    producer, consumer, cell = device.stream("producer"), device.stream("consumer"), cells(0)
    producer.launch(fill, cell, 1, writes=[cell])
    first = producer.record("done")
    held = hold(producer)
    producer.record("done")
    consumer.wait_event(first)
    seen = await consumer.launch(copy_of, cell, reads=[cell])
    assert seen.tolist() == [1]
    assert not held.launch.query()
    held.release()
    await held.launch


async def test_event_of_idle_stream_is_complete(device: Device) -> None:
    """Recording on a stream that never had work gives a complete event."""
    event = device.stream("s").record("idle")
    assert event.query()
    await event


async def test_event_made_by_hand_is_refused_everywhere(device: Device) -> None:
    """What nothing recorded is an error to await, query, block on or wait for."""
    stream, event = device.stream("s"), Event("orphan")
    with pytest.raises(EventNotRecordedError, match="orphan"):
        await event
    with pytest.raises(EventNotRecordedError, match="orphan"):
        event.query()
    with pytest.raises(EventNotRecordedError, match="orphan"):
        event.synchronize()
    with pytest.raises(EventNotRecordedError, match="orphan"):
        stream.wait_event(event)


async def test_refused_event_leaves_the_stream_working(device: Device, cells: Cells) -> None:
    """A wait that was refused adds nothing to what follows."""
    stream, cell = device.stream("s"), cells(0)
    with pytest.raises(EventNotRecordedError):
        stream.wait_event(Event("orphan"))
    await stream.launch(fill, cell, 3, writes=[cell])
    assert cell.tolist() == [3]


async def test_wait_event_orders_work_of_two_streams(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """Work behind ``wait_event`` sees what the other stream wrote before its record."""
    producer, consumer, cell = device.stream("producer"), device.stream("consumer"), cells(0)
    held = hold(producer)
    producer.launch(fill, cell, 7, writes=[cell])
    consumer.wait_event(producer.record("filled"))
    seen = consumer.launch(copy_of, cell, reads=[cell])
    assert not seen.query()
    held.release()
    assert (await seen).tolist() == [7]


async def test_wait_event_on_a_complete_event_changes_nothing(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """Waiting for the past does not wait for what its stream does now."""
    producer, consumer, cell = device.stream("producer"), device.stream("consumer"), cells(0)
    past = producer.launch(fill, cell, 7, writes=[cell]).event
    await past
    held = hold(producer)
    consumer.wait_event(past)
    assert (await consumer.launch(copy_of, cell, reads=[cell])).tolist() == [7]
    assert not held.launch.query()
    held.release()
    await held.launch


async def test_wait_event_holds_back_only_later_work(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """What was put on a stream before its wait does not wait."""
    blocker, stream, cell = device.stream("blocker"), device.stream("s"), cells(0)
    held = hold(blocker)
    before = stream.launch(copy_of, cell, reads=[cell])
    stream.wait_event(held.launch.event)
    after = stream.launch(fill, cell, 2, writes=[cell])
    assert (await before).tolist() == [0]
    assert not after.query()
    held.release()
    assert (await after).tolist() == [2]


async def test_wait_on_own_stream_does_not_lock_it(device: Device, hold: HoldFactory) -> None:
    """A stream may wait for its own past: order gives it for free."""
    stream = device.stream("s")
    held = hold(stream)
    stream.wait_event(held.launch.event)
    stream.wait_stream(stream)
    after = stream.launch(nothing)
    held.release()
    await after


async def test_record_after_a_wait_includes_it(device: Device, hold: HoldFactory) -> None:
    """An event recorded behind a wait is not complete before the awaited event."""
    blocker, stream = device.stream("blocker"), device.stream("s")
    held = hold(blocker)
    stream.wait_event(held.launch.event)
    joined = stream.record("joined")
    assert not joined.query()
    held.release()
    await joined


async def test_waits_for_two_streams_both_count(device: Device, hold: HoldFactory) -> None:
    """Several waits in a row hold the next work back until the last of them."""
    one, two, stream = device.stream("one"), device.stream("two"), device.stream("s")
    holds = hold(one), hold(two)
    stream.wait_event(holds[0].launch.event)
    stream.wait_event(holds[1].launch.event)
    after = stream.launch(nothing)
    holds[1].release()
    await holds[1].launch
    assert not after.query()
    holds[0].release()
    await after


@pytest.mark.parametrize("first", [0, 1])
async def test_later_of_two_waits_for_one_stream_counts(
    first: int, device: Device, hold: HoldFactory
) -> None:
    """Two waits for the same stream are one wait for its later event, in whichever order."""
    producer, consumer = device.stream("producer"), device.stream("consumer")
    holds = [hold(producer), hold(producer)]
    consumer.wait_event(holds[first].launch.event)
    consumer.wait_event(holds[1 - first].launch.event)
    after = consumer.launch(nothing)
    holds[0].release()
    await holds[0].launch
    assert not after.query()
    holds[1].release()
    await after


async def test_record_behind_work_that_waited_for_as_much_adds_no_operation(
    device: Device, hold: HoldFactory
) -> None:
    """A wait that the stream's last work has made already costs the device nothing."""
    producer, consumer = device.stream("producer"), device.stream("consumer")
    holds = [hold(producer), hold(producer)]
    consumer.wait_event(holds[0].launch.event)
    work = consumer.launch(nothing)
    consumer.wait_event(holds[0].launch.event)
    same = consumer.record("as much")
    assert same.number == work.event.number
    consumer.wait_event(holds[1].launch.event)
    more = consumer.record("more")
    holds[0].release()
    await same
    assert not more.query()
    holds[1].release()
    await more


async def test_wait_stream_covers_all_that_is_queued(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """``wait_stream`` waits for everything that the other stream has by now."""
    producer, consumer, cell = device.stream("producer"), device.stream("consumer"), cells(0)
    held = hold(producer)
    for digit in (1, 2, 3):
        producer.launch(append, cell, digit, reads=[cell], writes=[cell])
    consumer.wait_stream(producer)
    producer.launch(append, cells(0), 4)
    seen = consumer.launch(copy_of, cell, reads=[cell])
    assert not seen.query()
    held.release()
    assert (await seen).tolist() == [123]


async def test_wait_goes_through_a_third_stream(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """Waits are transitive even when the stream between does no work of its own."""
    first, middle, last = device.stream("first"), device.stream("middle"), device.stream("last")
    cell = cells(0)
    held = hold(first)
    first.launch(fill, cell, 5, writes=[cell])
    middle.wait_stream(first)
    last.wait_stream(middle)
    seen = last.launch(copy_of, cell, reads=[cell])
    assert not seen.query()
    held.release()
    assert (await seen).tolist() == [5]


async def test_streams_run_at_the_same_time(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """Work on one stream finishes while another stream is occupied, both ways round."""
    one, two, cell = device.stream("one"), device.stream("two"), cells(0)
    for occupied, free in ((one, two), (two, one)):
        held = hold(occupied)
        await free.launch(append, cell, 1, reads=[cell], writes=[cell])
        assert not held.launch.query()
        held.release()
        await held.launch
    assert cell.tolist() == [11]


async def test_event_of_another_device_is_refused(device: Device, bench: Bench) -> None:
    """A device-side wait across devices is a caller's mistake, and says what to do."""
    with bench.open() as other:
        event = other.stream("s").record("elsewhere")
        with pytest.raises(ValueError, match="await the event on the host"):
            device.stream("s").wait_event(event)


async def test_completion_counter_never_goes_back(device: Device, hold: HoldFactory) -> None:
    """The counter grows with the work and never exceeds what is done."""
    stream = device.stream("s")
    seen = [stream.completed]
    for _ in range(3):
        held = hold(stream)
        behind = stream.launch(nothing)
        seen.append(stream.advance(behind.event.number))
        assert seen[-1] < held.launch.event.number
        held.release()
        await behind
        seen.append(stream.advance(behind.event.number))
        assert seen[-1] >= behind.event.number
    assert seen == sorted(seen)
