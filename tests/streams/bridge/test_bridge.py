"""Waiting through the bridge: who goes on when, in which order, and what is looked at."""

import asyncio
import threading
from collections.abc import Callable

import anyio
import pytest

from streams.bridge import PollingBridge, running_bridge
from streams.errors import DeviceLostError, EventNotRecordedError
from streams.event import Event
from tests.streams.polled_device import PolledDevice, PolledStream, settled, until

POLICIES = ["auto", "low_latency", "thread", "spin"]


@pytest.fixture(params=POLICIES)
async def bridge(request: pytest.FixtureRequest) -> PollingBridge:
    """A bridge under each policy; entered by the test."""
    return PollingBridge(request.param)


OpenStream = Callable[[PolledDevice], PolledStream]


@pytest.fixture(params=["polled", "calling"])
def open_stream(request: pytest.FixtureRequest) -> OpenStream:
    """Streams that have to be polled, and streams that call back."""
    opened: OpenStream = getattr(PolledDevice, request.param)
    return opened


async def test_waiter_goes_on_when_the_device_gets_there(
    bridge: PollingBridge, open_stream: OpenStream
) -> None:
    """Under every policy and for both kinds of stream a wait ends with its event, not before."""
    async with bridge:
        with PolledDevice() as device:
            stream = open_stream(device)
            for _ in range(3):
                event, behind = stream.enqueue(), stream.enqueue()
                wait = asyncio.ensure_future(event.wait())
                patient = asyncio.ensure_future(behind.wait())
                await asyncio.sleep(0)
                stream.finish(event)
                await wait
                assert not patient.done()
                stream.finish(behind)
                await patient
    assert bridge.stats.num_waiters == 0


async def test_event_that_is_done_does_not_suspend() -> None:
    """One look before the first sleep is enough for what is done already."""
    async with PollingBridge() as bridge:
        stream = PolledDevice().polled()
        event = stream.enqueue()
        stream.finish(event)
        wait = bridge.wait(event)
        with pytest.raises(StopIteration):
            wait.send(None)
    assert stream.asked == [event.number]


async def test_known_completion_asks_nobody() -> None:
    """An event below the counter is complete without a query."""
    async with PollingBridge() as bridge:
        stream = PolledDevice().polled()
        first, second = stream.enqueue(), stream.enqueue()
        stream.finish(second)
        await bridge.wait(second)
        await bridge.wait(first)
    assert stream.asked == [second.number]
    assert bridge.stats.queries == 1


async def test_unrecorded_event_is_refused() -> None:
    """Nothing would ever complete it."""
    async with PollingBridge() as bridge:
        with pytest.raises(EventNotRecordedError, match="'nobody' was never recorded"):
            await bridge.wait(Event("nobody"))


async def test_waiters_of_a_stream_go_on_in_its_order(
    bridge: PollingBridge, open_stream: OpenStream
) -> None:
    """However they arrived, and however many completions one look finds."""
    order: list[int] = []

    async def wait(event: Event) -> None:
        await event
        order.append(event.number)

    async with bridge:
        with PolledDevice() as device:
            stream = open_stream(device)
            events = [stream.enqueue() for _ in range(6)]
            shuffled = [events[index] for index in (3, 0, 5, 1, 4, 2, 0, 3)]
            waits = [asyncio.ensure_future(wait(event)) for event in shuffled]
            await asyncio.sleep(0)
            stream.finish(events[1])
            await until(lambda: len(order) == 3)
            stream.finish(events[5])
            await asyncio.gather(*waits)
    numbers = [event.number for event in events]
    assert order == sorted(order)
    assert set(order) == set(numbers)


async def test_out_of_order_number_is_not_held_up_by_a_thread_that_waits_for_more() -> None:
    """While the stream's thread is blocked for a later number, the bridge looks itself."""
    async with PollingBridge("thread"):
        with PolledDevice() as device:
            stream = device.polled()
            first, last = stream.enqueue(), stream.enqueue()
            late = asyncio.ensure_future(last.wait())
            await asyncio.sleep(0)
            stream.wait_until_blocked(last.number)
            early = asyncio.ensure_future(first.wait())
            await asyncio.sleep(0)
            stream.finish(first)
            await early
            assert not late.done()
            stream.finish(last)
            await late


async def test_streams_do_not_wait_for_each_other(bridge: PollingBridge) -> None:
    """A stream that never finishes holds up nobody else."""
    async with bridge:
        with PolledDevice() as device:
            stuck, other = device.polled("stuck"), device.polled("other")
            never = asyncio.ensure_future(stuck.enqueue().wait())
            for _ in range(3):
                event = other.enqueue()
                other.finish(event)
                await event
            assert not never.done()
            never.cancel()
            await settled(never)


async def test_stream_that_calls_back_is_never_polled(bridge: PollingBridge) -> None:
    """No policy polls a stream that wakes the loop itself."""
    async with bridge:
        with PolledDevice() as device:
            stream = device.calling()
            events = [stream.enqueue() for _ in range(3)]
            waits = [asyncio.ensure_future(event.wait()) for event in events]
            for event in events:
                await asyncio.sleep(0)
                stream.finish(event)
            await asyncio.gather(*waits)
            stats = bridge.stats
    assert (stats.polls, stats.timer_arms) == (0, 0)
    assert 1 <= stats.wakeups <= 3


async def test_calls_from_threads_are_batched(open_stream: OpenStream) -> None:
    """What several threads report before the loop gets there is one wake-up."""
    async with PollingBridge() as bridge:
        with PolledDevice() as device:
            streams = [device.calling(f"s{index}") for index in range(4)]
            events = [stream.enqueue() for stream in streams]
            waits = [asyncio.ensure_future(event.wait()) for event in events]
            await asyncio.sleep(0)
            threads = [
                threading.Thread(target=stream.finish, args=(event,))
                for stream, event in zip(streams, events, strict=True)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()  # the loop stands still meanwhile
            await asyncio.gather(*waits)
            assert bridge.stats.wakeups == 1


async def test_one_callback_is_outstanding_per_stream() -> None:
    """Waiting and giving up, again and again, arms the stream once."""
    async with PollingBridge() as bridge:
        with PolledDevice() as device:
            stream = device.calling()
            event = stream.enqueue()
            for _ in range(20):
                wait = asyncio.ensure_future(event.wait())
                await asyncio.sleep(0)
                wait.cancel()
                await settled(wait)
            assert len(stream.callbacks) == 1
            wait = asyncio.ensure_future(event.wait())
            await asyncio.sleep(0)
            stream.finish(event)
            await wait
    assert bridge.stats.num_streams == 0


async def test_lower_number_is_armed_too() -> None:
    """A waiter for less than the stream was asked to call at is not forgotten."""
    async with PollingBridge():
        with PolledDevice() as device:
            stream = device.calling()
            first, last = stream.enqueue(), stream.enqueue()
            late = asyncio.ensure_future(last.wait())
            await asyncio.sleep(0)
            early = asyncio.ensure_future(first.wait())
            await asyncio.sleep(0)
            stream.finish(first)
            await early
            assert not late.done()
            stream.finish(last)
            await late


async def test_nothing_outstanding_arms_nothing(bridge: PollingBridge) -> None:
    """Without waiters no timer is armed, nothing is scheduled, nobody is asked."""
    async with bridge:
        with PolledDevice() as device:
            stream = device.polled()
            event, abandoned = stream.enqueue(), stream.enqueue()
            given_up = asyncio.ensure_future(abandoned.wait(60))
            wait = asyncio.ensure_future(event.wait(60))
            await asyncio.sleep(0)
            stream.finish(event)
            await wait
            given_up.cancel()
            await settled(given_up)
            before, asked = bridge.stats, len(stream.asked)
            for _ in range(100):
                await asyncio.sleep(0)
            await asyncio.sleep(0.005)  # any timer left would fire within its two milliseconds
            assert bridge.stats == before
            assert len(stream.asked) == asked


async def test_cancelled_waiters_leave_no_trace(
    bridge: PollingBridge, open_stream: OpenStream
) -> None:
    """Neither asyncio's nor anyio's cancellation leaves a waiter in a lane, and others go on."""
    async with bridge:
        with PolledDevice() as device:
            stream = open_stream(device)
            event = stream.enqueue()
            patient = asyncio.ensure_future(event.wait())
            cancelled = asyncio.ensure_future(event.wait(30))
            await asyncio.sleep(0)
            cancelled.cancel()
            (outcome,) = await settled(cancelled)
            assert isinstance(outcome, asyncio.CancelledError)
            async with anyio.create_task_group() as group:
                group.start_soon(event.wait)
                group.start_soon(event.wait, 30)
                await asyncio.sleep(0)
                group.cancel_scope.cancel()
            assert bridge.stats.num_waiters == 1
            stream.finish(event)
            await patient
            assert bridge.stats.num_waiters == 0


async def test_waiter_cancelled_between_completion_and_resume_is_cancelled() -> None:
    """The event is complete, its waiter is about to run, and then somebody cancels it."""
    async with PollingBridge() as bridge:
        with PolledDevice() as device:
            stream = device.calling()
            event = stream.enqueue()
            waits = [asyncio.ensure_future(event.wait(30)) for _ in range(3)]
            await asyncio.sleep(0)
            stream.finish(event)
            asyncio.get_running_loop().call_soon(waits[1].cancel)
            outcomes = await settled(*waits)
    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        asyncio.CancelledError,
        type(None),
    ]
    assert bridge.stats.num_waiters == 0


@pytest.mark.parametrize("fault", [None, ValueError("fault")])
async def test_waiter_cancelled_just_before_the_bridge_sees_its_event_harms_nobody(
    fault: Exception | None,
) -> None:
    """Its future is cancelled, it has not left yet, and then it is told of its event."""
    async with PollingBridge():
        with PolledDevice() as device:
            stream = device.calling()
            event = stream.enqueue()
            waits = [asyncio.ensure_future(event.wait()) for _ in range(3)]
            await asyncio.sleep(0)
            if fault is None:
                stream.finish(event)
            else:
                device.lose(fault)
            waits[1].cancel()
            outcomes = await settled(*waits)
    kind = type(None) if fault is None else DeviceLostError
    assert [type(outcome) for outcome in outcomes] == [kind, asyncio.CancelledError, kind]


@pytest.mark.parametrize("num_turns", [1, 2, 3])
async def test_stream_that_empties_and_fills_within_one_turn_is_not_lost(
    open_stream: OpenStream, num_turns: int
) -> None:
    """One waiter is served, another gives up, and the first waits again, all at once."""
    async with PollingBridge("spin") as bridge:
        with PolledDevice() as device:
            stream = open_stream(device)
            first, given_up, next_one = (stream.enqueue() for _ in range(3))

            async def wait_twice() -> None:
                await first
                await next_one

            waiting = asyncio.ensure_future(wait_twice())
            leaving = asyncio.ensure_future(given_up.wait())
            for _ in range(num_turns):
                await asyncio.sleep(0)
            stream.finish(first)
            leaving.cancel()  # leaves when the first was let go, and before it waits again
            await settled(leaving)
            await until(lambda: not waiting.done() and bridge.stats.num_waiters == 1)
            stream.finish(next_one)
            await waiting


async def test_waiter_that_raises_disturbs_nobody(bridge: PollingBridge) -> None:
    """What a coroutine does after its event is its own affair."""

    async def raising(event: Event) -> None:
        await event
        raise KeyError("mine")

    async with bridge:
        with PolledDevice() as device:
            stream = device.polled()
            event, behind = stream.enqueue(), stream.enqueue()
            waits = settled(raising(event), event.wait(), behind.wait(), raising(behind))
            running = asyncio.ensure_future(waits)
            await asyncio.sleep(0)
            stream.finish(event)
            stream.finish(behind)
            kinds = [type(outcome) for outcome in await running]
    assert kinds == [KeyError, type(None), type(None), KeyError]


async def test_repr_and_stats_tell_what_is_outstanding() -> None:
    """A bridge in a debugger says its policy and its load."""
    async with PollingBridge("spin") as bridge:
        device = PolledDevice()
        streams = [device.polled("a"), device.polled("b")]
        waits = [asyncio.ensure_future(stream.enqueue().wait()) for stream in streams * 2]
        await asyncio.sleep(0)
        assert running_bridge() is bridge
        assert repr(bridge) == "<PollingBridge 'spin': 4 waiting on 2 streams>"
        assert bridge.stats.queries >= 2
        for wait in waits:
            wait.cancel()
        await settled(*waits)
        assert repr(bridge) == "<PollingBridge 'spin': 0 waiting on 0 streams>"
    assert repr(bridge) == "<PollingBridge 'spin': closed on 0 streams>"
