"""What a policy is asked, when, and what comes of its answers."""

import asyncio

from streams.bridge import PollingBridge
from streams.bridge.wait_policy import Pace
from streams.event import Event
from tests.streams.polled_device import PolledDevice, until


async def test_only_the_head_of_each_stream_is_asked_for() -> None:
    """Ten thousand waiters cost a poll exactly what four do."""
    asked: list[list[list[int]]] = []
    for waiters_per_stream in (1, 2500):
        async with PollingBridge(_Manual()) as bridge:
            device = PolledDevice()
            streams = [device.polled(f"s{index}") for index in range(4)]
            tasks = [
                asyncio.ensure_future(bridge.wait(stream.enqueue()))
                for stream in streams
                for _ in range(waiters_per_stream)
            ]
            await asyncio.sleep(0)
            assert bridge.stats.num_waiters == 4 * waiters_per_stream
            polls = bridge.stats.polls
            for stream in streams:
                stream.asked.clear()
            await until(lambda polls=polls, bridge=bridge: bridge.stats.polls >= polls + 3)  # type: ignore[misc]
            num = bridge.stats.polls - polls
            assert all(len(stream.asked) == num for stream in streams)
            asked.append([stream.asked[:3] for stream in streams])
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert asked[0] == asked[1]


class _Manual:
    """The smallest policy of a user: look at every turn."""

    name = "manual"

    def pace(self, stream: object) -> Pace:
        return self

    def begin(self, now_ns: int) -> None:
        """Nothing to plan."""

    def found(self, now_ns: int, num_done: int) -> None:
        """Nothing to learn."""

    def next_look_ns(self, now_ns: int) -> int | None:
        return now_ns


async def test_policy_of_the_user_decides_when_to_look() -> None:
    """A pace can look, hand over to a thread, and take back."""

    class Alternating(_Manual):
        def __init__(self) -> None:
            self.num_found = 0

        def found(self, now_ns: int, num_done: int) -> None:
            self.num_found += num_done

        def next_look_ns(self, now_ns: int) -> int | None:
            return None if self.num_found % 2 else now_ns + 100_000

    policy = Alternating()
    async with PollingBridge(policy) as bridge:
        with PolledDevice() as device:
            stream = device.polled()
            for index in range(6):
                event = stream.enqueue()
                wait = asyncio.ensure_future(event.wait())
                await asyncio.sleep(0)
                if index % 2:
                    stream.wait_until_blocked(event.number)
                stream.finish(event)
                await wait
    assert policy.num_found == 6
    assert "Alternating" not in repr(bridge)
    assert "manual" in repr(bridge)


class _Noting(_Manual):
    """Notes what the pace is told, among other things that happen."""

    def __init__(self, happened: list[object]) -> None:
        self._happened = happened

    def begin(self, now_ns: int) -> None:
        self._happened.append("begin")

    def found(self, now_ns: int, num_done: int) -> None:
        self._happened.append(num_done)


async def test_pace_learns_of_a_burst_once_and_after_the_waiters_have_run() -> None:
    """Whoever waited comes first; all completions up to the present are one lesson."""
    happened: list[object] = []

    async def wait(event: Event) -> None:
        await event
        happened.append(event.label)

    async with PollingBridge(_Noting(happened)):
        with PolledDevice() as device:
            stream = device.polled()
            events = [stream.enqueue(label) for label in "abcd"]
            waits = [asyncio.ensure_future(wait(event)) for event in events]
            await asyncio.sleep(0)
            stream.finish(events[2])
            await asyncio.gather(*waits[:3])
            await until(lambda: 3 in happened)
            stream.finish(events[3])
            await waits[3]
            await until(lambda: happened[-1] == 1)
    assert happened == ["begin", "a", "b", "c", 3, "d", 1]


async def test_awaiting_one_event_after_the_other_is_no_new_beginning() -> None:
    """A coroutine that goes straight on to its next event keeps the stream's rhythm."""
    happened: list[object] = []
    async with PollingBridge(_Noting(happened)):
        with PolledDevice() as device:
            stream = device.polled()
            for _ in range(3):
                event = stream.enqueue()
                asyncio.get_running_loop().call_soon(stream.finish, event)
                await event
            assert happened.count("begin") == 1
            await until(lambda: happened[-1] != "begin")
            for _ in range(5):
                await asyncio.sleep(0)  # the stream has run dry
            event = stream.enqueue()
            asyncio.get_running_loop().call_soon(stream.finish, event)
            await event
    assert happened.count("begin") == 2


async def test_thread_spares_the_device_every_question() -> None:
    """What a thread has blocked for is known to be done."""
    async with PollingBridge("thread") as bridge:
        with PolledDevice() as device:
            stream = device.polled()
            events = [stream.enqueue() for _ in range(5)]
            waits = [asyncio.ensure_future(bridge.wait(event)) for event in events]
            await asyncio.sleep(0)
            for event in events:
                stream.wait_until_blocked(event.number)
                stream.finish(event)
            await asyncio.gather(*waits)
    assert stream.asked == [events[0].number]  # once, before the first sleep


async def test_stream_that_leaves_its_thread_is_blocked_for_no_more() -> None:
    """What was handed over is taken back when the pace wants to look again."""

    class ThreadOnce(_Manual):
        num_found = 0

        def found(self, now_ns: int, num_done: int) -> None:
            self.num_found += num_done

        def next_look_ns(self, now_ns: int) -> int | None:
            return now_ns if self.num_found else None

    async with PollingBridge(ThreadOnce()) as bridge:
        with PolledDevice() as device:
            stream = device.polled()
            events = [stream.enqueue() for _ in range(6)]
            waits = [asyncio.ensure_future(bridge.wait(event)) for event in events]
            await asyncio.sleep(0)
            stream.wait_until_blocked(events[0].number)
            stream.finish(events[0])
            await waits[0]
            await until(lambda: bridge.stats.polls > 0)
            for event, wait in zip(events[1:], waits[1:], strict=True):
                stream.finish(event)
                await wait
    # It may have gone on to the second before it was told.
    assert set(stream.blocked_for) <= {events[0].number, events[1].number}
