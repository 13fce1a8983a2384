"""Waiting for devices in virtual time: deadlines, polls, and polls that cannot help."""

import asyncio

import pytest

from aio_sched.testing import DeadlockError, VirtualLoop, virtual_run
from streams.bridge import PollingBridge
from streams.device import open_device
from streams.errors import DeadlineError
from streams.event import Event
from streams.simulated.profile import SimProfile
from tests.streams.polled_device import PolledDevice, PolledStream

POLICIES = ["auto", "low_latency", "thread", "spin"]


def _stream() -> tuple[PolledStream, Event]:
    stream = PolledDevice().polled("s")
    return stream, stream.enqueue("awaited")


def _finish_at(stream: PolledStream, event: Event, at_ns: int) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.clock.call_at(at_ns, lambda: stream.finish(event))


@pytest.mark.parametrize("policy", POLICIES)
def test_poller_finds_what_the_clock_brings_about(policy: str) -> None:
    """Every policy polls in virtual time, and none stops the clock."""

    async def main() -> float:
        stream, event = _stream()
        _finish_at(stream, event, 5_000_000)
        async with PollingBridge(policy) as bridge:
            await bridge.wait(event)
            assert bridge.stats.polls > 0
        return asyncio.get_running_loop().time()

    assert 0.005 <= virtual_run(main()) < 0.008


@pytest.mark.parametrize("policy", POLICIES)
def test_deadline_passes_in_virtual_time(policy: str) -> None:
    """A wait of a minute for a device that hangs takes no time, and few polls."""

    async def main() -> int:
        _, event = _stream()
        async with PollingBridge(policy) as bridge:
            with pytest.raises(DeadlineError, match="awaited"):
                await bridge.wait(event, timeout=60)
            assert 60 <= asyncio.get_running_loop().time() < 60.01
            return bridge.stats.polls

    assert virtual_run(main()) < 10


@pytest.mark.parametrize("policy", POLICIES)
def test_only_polls_left_is_a_deadlock(policy: str) -> None:
    """A poller that nobody can help is no sign of life."""

    async def main() -> None:
        _, event = _stream()
        async with PollingBridge(policy) as bridge:
            await bridge.wait(event)

    with pytest.raises(DeadlockError, match="only polls could run") as caught:
        virtual_run(main(), max_steps=100)
    assert "awaited device events:\n  <Event 'awaited' on 's' #" in str(caught.value)
    assert "waits for <Event 'awaited'" in str(caught.value)


def test_news_that_is_not_yet_polled_is_no_deadlock() -> None:
    """What was done by the last thing that happened is found at the poll that is due."""

    async def main() -> None:
        stream, event = _stream()
        other, late = _stream()
        _finish_at(stream, event, 3_000_000)
        _finish_at(other, late, 3_000_001)
        await asyncio.gather(event.wait(), late.wait())

    virtual_run(main())


def test_query_that_raises_reaches_its_waiter() -> None:
    """The look before a deadlock is reported is a query like any other."""

    async def main() -> None:
        stream, event = _stream()
        waiter = asyncio.create_task(event.wait())
        await asyncio.sleep(0)
        stream.query_error = ValueError("driver")
        with pytest.raises(ValueError, match="driver"):
            await waiter

    virtual_run(main())


def test_wakeup_that_a_device_loses_is_found() -> None:
    """The event is complete, nobody was told, and the report shows both."""

    async def main() -> None:
        with open_device("sim") as device:
            stream = device.stream("s")
            stream.notify_at = lambda number, callback: None  # type: ignore[method-assign]
            stream.launch(lambda: None)
            await stream.record("lost").wait()

    with pytest.raises(DeadlockError) as caught:
        virtual_run(main())
    assert "<Event 'lost' on 's' #" in str(caught.value)
    assert "complete>" in str(caught.value)


@pytest.mark.parametrize("polled", [False, True])
def test_simulated_device_goes_by_the_loops_clock(polled: bool) -> None:
    """A launch takes its duration, an await of it not much longer, on one clock."""
    profile = SimProfile("test", other_us=(1000.0, 1000.0), polled=polled)

    async def main() -> float:
        with open_device("sim", profile=profile) as device:
            stream = device.stream("s")
            for _ in range(3):
                stream.launch(lambda: None)
            await stream.record("done").wait(timeout=1)
            return asyncio.get_running_loop().time()

    assert 0.003 <= virtual_run(main()) < 0.0045


@pytest.mark.parametrize("polled", [False, True])
def test_streams_that_wait_for_each_other_are_a_deadlock(polled: bool) -> None:
    """A device-side circle is reported with the device's own account of it."""
    profile = SimProfile("test", polled=polled)

    async def main() -> None:
        with open_device("sim", profile=profile) as device:
            first, second = device.stream("first"), device.stream("second")
            first.launch(lambda: None)
            ahead = Event("ahead", stream=second, number=2)
            first.wait_event(ahead)
            first.launch(lambda: None)
            second.wait_event(first.record("behind"))
            second.launch(lambda: None)
            await second.record("end").wait()

    with pytest.raises(DeadlockError, match="simulated devices:") as caught:
        virtual_run(main(), max_steps=10_000)
    assert "'first'" in str(caught.value)


def test_user_who_polls_by_hand_gets_on() -> None:
    """A question to a simulated device takes a little time, so that asking ends."""

    async def main() -> float:
        with open_device("sim") as device:
            stream = device.stream("s")
            stream.launch(lambda: None)
            event = stream.record("done")
            while not event.query():  # noqa: ASYNC110 - polling is the point
                await asyncio.sleep(0)
            return asyncio.get_running_loop().time()

    assert 0 < virtual_run(main(), max_steps=1000) < 0.01
