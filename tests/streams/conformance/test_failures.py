"""What a failing launch does to its waiters, its dependents and its stream."""

import asyncio
import gc
import traceback
import weakref
from collections.abc import Callable

import pytest
import torch

from streams.device import Device
from streams.errors import DeviceLostError, LaunchNotCompleteError
from tests.device_fixtures import Bench, Cells, HoldFactory
from tests.streams.conformance.work import BoomError, append, boom, copy_of, nothing, waiting


async def test_failed_launch_raises_at_its_waiter(device: Device) -> None:
    """``launch`` itself succeeds; awaiting and ``result`` raise what the function raised."""
    failed = device.stream("s").launch(boom)
    with pytest.raises(BoomError) as caught:
        await failed
    assert any("boom #1" in note and "'s'" in note for note in caught.value.__notes__)
    with pytest.raises(BoomError):
        failed.result()
    with pytest.raises(BoomError):
        failed.issued_value()
    assert failed.query()


async def test_stream_goes_on_after_a_failure(device: Device, cells: Cells) -> None:
    """Work behind a failed launch that does not depend on it runs."""
    stream, cell = device.stream("s"), cells(0)
    failed = stream.launch(boom)
    assert (await stream.launch(append, cell, 1)).tolist() == [1]
    with pytest.raises(BoomError):
        await failed


async def test_dependents_fail_with_the_same_error(device: Device) -> None:
    """A chain over two streams ends in the error of its first launch, noted once."""
    stream, other = device.stream("s"), device.stream("other")
    first = stream.launch(boom)
    second = other.launch(copy_of, first)
    third = stream.launch(copy_of, second)
    for failed in (third, second, first):
        with pytest.raises(BoomError) as caught:
            await failed
    assert len(caught.value.__notes__) == 1


async def test_event_reports_failures_since_the_previous_record(device: Device) -> None:
    """A failure belongs to the next record of its stream and to no later one."""
    stream = device.stream("s")
    before = stream.record("before")
    stream.launch(boom)
    after = stream.record("after")
    stream.launch(nothing)
    later = stream.record("later")
    await before
    with pytest.raises(BoomError):
        await after
    await later


async def test_waiting_streams_take_no_failure_away(device: Device) -> None:
    """``wait_stream`` and ``synchronize`` record, but the user's next record reports."""
    stream, other = device.stream("s"), device.stream("other")
    stream.launch(boom)
    other.wait_stream(stream)
    stream.synchronize()
    device.synchronize()
    with pytest.raises(BoomError):
        await stream.record("mine")


async def test_failure_behind_a_wait_is_not_the_waiters(device: Device) -> None:
    """Ordering after a failed launch without taking its value is no failure."""
    stream, other = device.stream("s"), device.stream("other")
    failed = stream.launch(boom)
    other.wait_event(failed.event)
    await other.launch(nothing)
    await other.record("fine")
    with pytest.raises(BoomError):
        await failed


async def test_event_synchronize_raises_the_failure(device: Device) -> None:
    """Blocking on an event reports like awaiting it."""
    stream = device.stream("s")
    stream.launch(boom)
    with pytest.raises(BoomError):
        stream.record("after").synchronize()


async def test_event_query_does_not_raise_the_failure(device: Device, hold: HoldFactory) -> None:
    """A query says only whether the device got there."""
    stream = device.stream("s")
    failed = stream.launch(boom)
    await stream.launch(nothing)
    assert failed.event.query()
    with pytest.raises(BoomError):
        await failed


async def test_raising_a_failure_again_does_not_grow_it(device: Device) -> None:
    """Each waiter gets the traceback of the launch and its own frame, not those of others."""
    failed = device.stream("s").launch(boom)
    depths = []
    for _ in range(3):
        with pytest.raises(BoomError) as caught:
            await failed
        depths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert depths[0] == depths[1] == depths[2]


@pytest.mark.parametrize("how", ["dependent", "raised again"])
async def test_failure_does_not_touch_the_coroutine_that_handled_it(
    device: Device, how: str
) -> None:
    """A launch that fails later with the same error leaves alone a coroutine that caught it.

    Clearing the frames of the shared error's traceback would end the suspended coroutine.
    """
    stream = device.stream("s")
    failed = stream.launch(boom)
    caught = asyncio.Event()
    go_on = asyncio.Event()
    kept: list[BoomError] = []

    def raise_kept() -> None:
        raise kept[0]

    async def handle() -> str:
        try:
            await failed
        except BoomError as error:
            kept.append(error)
            caught.set()
            await go_on.wait()
        return "went on"

    task = asyncio.create_task(handle())
    await caught.wait()
    with pytest.raises(BoomError):
        if how == "dependent":
            await stream.launch(copy_of, failed)
        else:
            await stream.launch(raise_kept)
    go_on.set()
    assert await task == "went on"


async def test_failure_keeps_no_locals_of_its_function(device: Device) -> None:
    """Memory made by a failed function is free although its error is kept."""
    stream = device.stream("s")
    refs: list[weakref.ref[torch.Tensor]] = []

    def fail() -> None:
        local = torch.ones(4)
        refs.append(weakref.ref(local))
        raise BoomError

    failed = stream.launch(fail)
    with pytest.raises(BoomError) as caught:
        await failed
    await stream.launch(nothing)
    gc.collect()
    assert caught.value is not None
    assert [ref() for ref in refs] == [None]


async def test_out_of_memory_fails_one_launch_only(device: Device) -> None:
    """Running out of memory is a failure of the request that asked, not of the device."""
    stream = device.stream("s")

    def exhaust() -> None:
        raise torch.OutOfMemoryError("tried to allocate too much")

    with pytest.raises(torch.OutOfMemoryError):
        await stream.launch(exhaust)
    await stream.launch(nothing)
    assert device.lost is None


async def test_result_of_unfinished_launch_is_refused(device: Device, hold: HoldFactory) -> None:
    """Reading a value early is an error that says to await."""
    stream = device.stream("s")
    held = hold(stream)
    behind = stream.launch(nothing)
    with pytest.raises(LaunchNotCompleteError, match="await it first"):
        behind.result()
    held.release()
    await behind
    assert behind.result() is None


@pytest.mark.parametrize("see", ["nobody", "launch", "event", "dependent"])
def test_only_an_unseen_failure_is_logged_at_close(
    bench: Bench, see: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing reports each failure that no waiter and no dependent was told of."""
    with bench.open() as device:
        stream = device.stream("s")
        failed = stream.launch(boom)
        event = stream.record("after")
        looks: dict[str, Callable[[], object]] = {
            "nobody": lambda: None,
            "launch": failed.result,
            "event": event.synchronize,
            "dependent": failed.issued_value,
        }
        stream.block_until(event.number)
        if see != "nobody":
            with pytest.raises(BoomError):
                looks[see]()
    told = [text for text in caplog.messages if "launch_failed_unseen" in text]
    assert len(told) == (1 if see == "nobody" else 0)
    assert all("'boom #1'" in text and "BoomError" in text for text in told)


async def test_old_unseen_failures_are_logged_at_once(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    """Failures are kept for their waiters, but not without end, and none goes unheard."""
    stream = device.stream("s")
    for _ in range(300):
        stream.launch(boom)
    await stream.drained()
    num_logged = sum("launch_failed_unseen" in text for text in caplog.messages)
    assert num_logged == 300 - 256


async def test_lost_device_fails_every_waiter_once_and_stays_lost(
    device: Device, hold: HoldFactory
) -> None:
    """After a sticky fault waiters, launches, records and waits all say that it is lost."""
    one, two = device.stream("one"), device.stream("two")
    done = one.record("done before")
    holds = hold(one), hold(two)
    fault = RuntimeError("illegal memory access")
    async with waiting(holds[0].launch) as first, waiting(two.record("end")) as second:
        device.lose(fault)
        for waiter in (first, second):
            with pytest.raises(DeviceLostError, match="illegal memory access") as caught:
                await waiter
            assert caught.value.__cause__ is fault
    device.lose(RuntimeError("a consequence"))
    assert device.lost is fault
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        one.launch(nothing)
    with pytest.raises(DeviceLostError):
        one.record("late")
    with pytest.raises(DeviceLostError):
        one.wait_event(done)
    with pytest.raises(DeviceLostError):
        two.block_until(holds[1].launch.event.number)
    with pytest.raises(DeviceLostError):
        device.stream("three")
    assert done.query()
    await done
