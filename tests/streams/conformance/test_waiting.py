"""How the host waits: await, deadline, cancellation, notification, and blocking."""

import asyncio
import threading

import pytest

from streams.device import Device
from streams.errors import DeadlineError, HostBlockedError
from streams.guard import HostBlockGuard, allow_blocking
from tests.device_fixtures import Cells, HoldFactory
from tests.streams.conformance.work import BoomError, append, boom, fill, nothing, waiting


async def test_loop_goes_on_while_a_coroutine_waits(device: Device, hold: HoldFactory) -> None:
    """Awaiting the device suspends one coroutine, not the thread."""
    held = hold(device.stream("s"))
    async with waiting(held.launch) as waiter:
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiter.done()
        held.release()
        await waiter


async def test_many_coroutines_wait_for_one_event(device: Device, hold: HoldFactory) -> None:
    """Every waiter of an event is resumed."""
    stream = device.stream("s")
    held = hold(stream)
    event = stream.record("shared")
    waiters = [asyncio.ensure_future(event.wait()) for _ in range(20)]
    async with waiting(event):
        held.release()
        await asyncio.gather(*waiters)


async def test_cancelled_waiter_leaves_the_work_running(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """Cancelling a wait cancels no device work, and others still get the value."""
    stream, cell = device.stream("s"), cells(0)
    held = hold(stream)
    filled = stream.launch(fill, cell, 4, writes=[cell])
    async with waiting(filled) as cancelled, waiting(filled) as patient:
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert not filled.query()
        held.release()
        await patient
    assert cell.tolist() == [4]


async def test_all_waiters_cancelled_and_the_next_one_succeeds(
    device: Device, hold: HoldFactory
) -> None:
    """A wait that was given up can be taken up again."""
    stream = device.stream("s")
    held = hold(stream)
    for _ in range(3):
        async with waiting(held.launch) as waiter:
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
    held.release()
    await held.launch


async def test_deadline_names_the_event_and_leaves_the_work(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """An expired wait says what it waited for and behind what; the work goes on."""
    stream, cell = device.stream("compute"), cells(0)
    held = hold(stream)
    filled = stream.launch(fill, cell, 2, writes=[cell])
    event = stream.record("copy_done")
    with pytest.raises(DeadlineError) as caught:
        await event.wait(timeout=0.01)
    assert isinstance(caught.value, TimeoutError)
    for part in ("copy_done", "compute", "fill"):
        assert part in str(caught.value)
    held.release()
    await filled
    assert cell.tolist() == [2]


async def test_deadline_of_a_complete_event_cannot_expire(device: Device) -> None:
    """No time is needed for what is done."""
    stream = device.stream("s")
    launch = stream.launch(nothing)
    await launch
    await launch.event.wait(timeout=0)
    await stream.record("now").wait(timeout=0)


async def test_block_until_waits_on_another_thread(device: Device, hold: HoldFactory) -> None:
    """A waiter thread blocks until the work is done, and the caller's thread stays free."""
    stream = device.stream("s")
    held = hold(stream)
    number, order = held.launch.event.number, []
    entered = threading.Event()

    def block() -> None:
        entered.set()
        stream.block_until(number)
        order.append("unblocked")

    thread = threading.Thread(target=block)
    thread.start()
    entered.wait()
    order.append("released")
    held.release()
    thread.join()
    assert order == ["released", "unblocked"]
    assert stream.advance(number) >= number


async def test_notification_comes_once_or_is_refused(device: Device, hold: HoldFactory) -> None:
    """A stream that notifies calls back once per request; another says to poll."""
    stream = device.stream("s")
    held = hold(stream)
    number = held.launch.event.number
    if not stream.notifies:
        with pytest.raises(TypeError, match="poll it"):
            stream.notify_at(number, lambda: None)
        return
    calls: list[str] = []
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        calls.append("early")
        loop.call_soon_threadsafe(told.set)

    stream.notify_at(number, tell)
    assert calls == []
    held.release()
    await told.wait()  # not blocking: on a simulated device the loop moves the time on
    stream.notify_at(number, lambda: calls.append("late"))
    await stream.launch(nothing)
    assert calls == ["early", "late"]


async def test_lost_device_notifies(device: Device, hold: HoldFactory) -> None:
    """Who asked for a notification is told when there will be no completion."""
    stream = device.stream("s")
    if not stream.notifies:
        pytest.skip("only streams that notify")
    held = hold(stream)
    told = threading.Event()
    stream.notify_at(held.launch.event.number, told.set)
    device.lose(RuntimeError("gone"))
    assert told.wait(10)
    late = threading.Event()
    stream.notify_at(held.launch.event.number, late.set)
    assert late.is_set()


async def test_drain_waits_for_all_streams_whatever_failed(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """After ``drain`` all that was queued has run; failures stay with their launches."""
    one, two, cell = device.stream("one"), device.stream("two"), cells(0)
    held = hold(one)
    failed = one.launch(boom)
    appended = two.launch(append, cell, 1)
    with pytest.raises(DeadlineError):
        await device.drain(timeout=0.01)
    held.release()
    await device.drain()
    assert failed.query()
    assert appended.query()
    with pytest.raises(BoomError):
        await failed


async def test_synchronize_blocks_until_the_streams_are_dry(device: Device, cells: Cells) -> None:
    """Outside a guarded task the host may block, on an event, a stream or the device."""
    one, two, cell = device.stream("one"), device.stream("two"), cells(0)
    first = one.launch(append, cell, 1)
    first.event.synchronize()
    one.launch(append, cell, 2)
    one.synchronize()
    two.launch(append, cell, 3)
    device.synchronize()
    assert cell.tolist() == [123]


async def test_blocking_in_a_guarded_task_is_refused(device: Device) -> None:
    """In strict mode every way to block the loop's thread raises instead."""
    stream = device.stream("s")
    event = stream.record("end")
    with HostBlockGuard(strict=True).watch():
        for block in (event.synchronize, stream.synchronize, device.synchronize):
            with pytest.raises(HostBlockedError):
                block()
        with allow_blocking("the case says so"):
            stream.synchronize()
    stream.synchronize()


async def test_no_query_while_a_capture_is_open(device: Device, hold: HoldFactory) -> None:
    """Within ``capture`` completion stands still; afterwards it goes on."""
    stream = device.stream("s")
    known = stream.launch(nothing)
    await known
    seen = []
    with device.capture():
        with device.capture():
            seen.append(device.is_capturing)
        seen.append(device.is_capturing)
        assert known.query()
    seen.append(device.is_capturing)
    assert seen == [True, True, False]
    await stream.launch(nothing)
