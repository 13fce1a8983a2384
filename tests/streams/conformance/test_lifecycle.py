"""Opening, naming and closing: what a device refuses and what it leaves behind."""

import asyncio
import threading

import pytest

from streams.device import Device
from streams.errors import DeviceClosedError, DeviceLostError, NotIssuerError
from streams.monitor import DeviceMonitor, Span
from tests.device_fixtures import Bench, HoldFactory
from tests.streams.conformance.work import BoomError, fill, nothing, until, waiting


def test_taken_name_is_refused(device: Device) -> None:
    """Two open streams of a device do not share a name."""
    stream = device.stream("forward")
    with pytest.raises(ValueError, match="'forward' is taken"):
        device.stream("forward")
    assert device.streams == (stream,)


def test_empty_name_is_refused(device: Device) -> None:
    """A stream has a name for errors and traces."""
    with pytest.raises(ValueError, match="empty"):
        device.stream("")


def test_positive_priority_is_refused(device: Device) -> None:
    """The sign of priorities is torch's: negative is more urgent."""
    with pytest.raises(ValueError, match="0 is normal and negative is more urgent"):
        device.stream("s", priority=1)
    assert device.streams == ()


async def test_urgent_stream_works(device: Device) -> None:
    """A negative priority is accepted and kept."""
    stream = device.stream("s", priority=-1)
    assert stream.priority == -1
    await stream.launch(nothing)


async def test_device_says_what_it_is(device: Device) -> None:
    """The device's repr names it, its state and its streams."""
    device.stream("forward")
    assert device.name in repr(device)
    assert "open" in repr(device)
    assert "'forward'" in repr(device)


async def test_closed_device_refuses_everything(bench: Bench) -> None:
    """After ``close`` each call says that the device is closed, and closing again is nothing."""
    device = bench.open()
    stream, other = device.stream("s"), device.stream("other")
    done = stream.launch(nothing)
    await done
    device.close()
    device.close()
    assert device.is_closed
    for use in (
        lambda: stream.launch(nothing),
        lambda: stream.record("late"),
        lambda: stream.wait_event(done.event),
        lambda: stream.wait_stream(other),
        lambda: device.stream("another"),
        device.synchronize,
    ):
        with pytest.raises(DeviceClosedError, match="open_device"):
            use()


async def test_finished_work_stays_readable_after_close(bench: Bench) -> None:
    """Values and events of completed work outlive the device."""
    with bench.open() as device:
        stream = device.stream("s")
        launch = stream.launch(lambda: 7)
        await launch
    assert await launch == launch.result() == 7
    assert launch.event.query()
    await launch.event
    launch.event.synchronize()


async def test_close_answers_every_waiter(bench: Bench) -> None:
    """Work in flight ends or never starts; each waiter gets its value or the reason."""
    device = bench.open()
    one, two = device.stream("one"), device.stream("two")
    held = bench.hold(one)
    two.wait_event(held.launch.event)
    launches = [stream.launch(nothing) for stream in (one, two, one, two)]
    async with waiting(launches[0]) as first, waiting(two.record("end")) as last:
        closer = threading.Thread(target=device.close)
        closer.start()
        await until(lambda: device.is_closed)
        bench.release_all()
        answers = await asyncio.gather(first, last, return_exceptions=True)
        closer.join()
    assert all(answer is None or isinstance(answer, DeviceClosedError) for answer in answers)
    for launch in launches:
        try:
            await launch
        except DeviceClosedError as error:
            assert "await it before closing" in str(error)  # noqa: PT017  # either is right


async def test_close_while_a_thread_blocks_lets_it_go(bench: Bench) -> None:
    """A waiter thread ends when the device is closed under it."""
    device = bench.open()
    stream = device.stream("s")
    held = bench.hold(stream)
    number = stream.launch(nothing).event.number
    outcome: list[object] = []
    entered = threading.Event()

    def block() -> None:
        entered.set()
        try:
            outcome.append(stream.block_until(number))
        except DeviceClosedError as error:
            outcome.append(error)

    thread = threading.Thread(target=block)
    thread.start()
    entered.wait()
    closer = threading.Thread(target=device.close)
    closer.start()
    held.release()
    thread.join()
    closer.join()
    assert len(outcome) == 1


async def test_close_from_a_launch_does_not_lock_up(bench: Bench) -> None:
    """A function that closes its own device ends, and so does everybody who waits."""
    device = bench.open()
    one, two = device.stream("one"), device.stream("two")
    closing = one.launch(device.close)
    waits = [closing.wait(), two.drained()]
    answers = await asyncio.gather(*waits, return_exceptions=True)
    assert all(answer is None or isinstance(answer, DeviceClosedError) for answer in answers)
    await until(lambda: device.is_closed)


async def test_close_drops_what_never_ran(bench: Bench, hold: HoldFactory) -> None:
    """A closed device keeps no arguments."""
    device = bench.open()
    stream = device.stream("s")
    held = bench.hold(stream)
    stream.launch(fill, [1, 2, 3], 0)
    held.release()
    device.close()
    assert stream.queue_before(stream.completed + 10) == []


async def test_names_of_a_closed_device_are_free_in_the_next(bench: Bench) -> None:
    """Devices may be opened one after the other, with the same streams."""
    for _ in range(3):
        with bench.open() as device:
            await device.stream("forward").launch(nothing)


async def test_foreign_task_may_not_enqueue(device: Device) -> None:
    """A stream that has an issuer takes device calls from that task only; all may wait."""
    stream = device.stream("s")
    stream.issuer = asyncio.current_task()
    launch = stream.launch(nothing)

    async def intrude() -> None:
        stream.launch(nothing)

    with pytest.raises(NotIssuerError, match="'s'"):
        await asyncio.create_task(intrude())
    await asyncio.create_task(launch.wait())


async def test_closed_stream_refuses_work_and_frees_its_name(device: Device) -> None:
    """A stream can be given back while its device stays open."""
    stream, other = device.stream("s"), device.stream("other")
    done = stream.launch(lambda: 7)
    await stream.drained()
    stream.close()
    stream.close()
    assert device.streams == (other,)
    with pytest.raises(DeviceClosedError, match="open another"):
        stream.launch(nothing)
    with pytest.raises(DeviceClosedError):
        stream.record("late")
    assert await done == 7
    again = device.stream("s")
    await again.launch(nothing)
    await other.launch(nothing)


async def test_work_behind_a_closed_stream_is_answered(bench: Bench, device: Device) -> None:
    """Closing a stream that others wait for neither hangs nor skips them, whatever it drops."""
    closing, waiter = device.stream("closing"), device.stream("waiter")
    held = bench.hold(closing)
    dropped = closing.launch(nothing)
    waiter.wait_event(dropped.event)
    behind, after = waiter.launch(lambda: 1), waiter.launch(lambda: 2)
    closer = threading.Thread(target=closing.close)
    closer.start()
    await until(lambda: closing.is_closed)
    held.release()
    closer.join()
    for launch, value in ((dropped, None), (behind, 1)):
        try:
            assert await launch == value
        except DeviceClosedError as error:
            assert "await it before closing" in str(error)  # noqa: PT017  # either is right
    assert await after == 2


async def test_monitor_that_raises_on_a_device_thread_loses_the_device(device: Device) -> None:
    """A broken observer is loud: waiters are told instead of left waiting."""
    if not device.capabilities.device_timing:
        pytest.skip("only devices that report spans")

    class Broken(DeviceMonitor):
        def on_span(self, span: Span) -> None:
            raise BoomError("broken monitor")

    device.add_monitor(Broken())
    with pytest.raises(DeviceLostError, match="broken monitor"):
        await device.stream("s").launch(nothing)
