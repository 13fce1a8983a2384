"""Waits that run out of time: when, and what the error says."""

import asyncio
import gc
import math
from typing import Any

import pytest

from aio_sched.testing import virtual_run
from streams.bridge import PollingBridge
from streams.bridge.deadlines import Deadlines
from streams.current import WorkTag, work_tag
from streams.errors import DeadlineError
from tests.streams.polled_device import PolledDevice, PolledStream, settled


@pytest.fixture(params=["auto", "low_latency", "thread", "spin"])
async def bridge(request: pytest.FixtureRequest) -> PollingBridge:
    """A bridge under each policy; entered by the test."""
    return PollingBridge(request.param)


@pytest.mark.parametrize("kind", ["polled", "calling"])
@pytest.mark.parametrize("is_capturing", [False, True])
async def test_deadline_fires_however_the_stream_is_waited_for(
    bridge: PollingBridge, kind: str, is_capturing: bool
) -> None:
    """Polled, blocked for, called back, or not asked at all: time runs out all the same."""
    async with bridge:
        with PolledDevice() as device:
            stream: PolledStream = getattr(device, kind)()
            event = stream.enqueue()
            device.is_capturing = is_capturing
            patient = asyncio.ensure_future(bridge.wait(event))
            for timeout in (0.003, 0.001):
                with pytest.raises(DeadlineError):
                    await bridge.wait(event, timeout)
            assert bridge.stats.num_waiters == 1
            device.is_capturing = False
            stream.finish(event)
            await patient


async def test_error_names_event_stage_stream_step_device_queue_and_remedy() -> None:
    """Whoever reads the message knows what hung and what to look at."""
    async with PollingBridge():
        with PolledDevice("gpu:7") as device:
            stream = device.polled("forward")
            token = work_tag.set(WorkTag(12, "publish"))
            stream.launch(_attention)
            event = stream.enqueue("copy_done")
            work_tag.reset(token)
            with pytest.raises(DeadlineError) as caught:
                await event.wait(0.002)
    message = str(caught.value)
    for part in (
        "'copy_done'",
        "'publish'",
        "step 12",
        "'forward'",
        "gpu:7",
        "0.002 s",
        "_attention #1 of publish#12",
        "allow more time",
    ):
        assert part in message
    assert isinstance(caught.value, TimeoutError)


def _attention() -> None:
    """A launch with a name."""


async def test_long_queue_is_summed_up() -> None:
    """The first few operations are named, the others counted; finished ones are left out."""
    async with PollingBridge():
        with PolledDevice() as device:
            stream = device.polled()
            events = [stream.enqueue() for _ in range(5000)]
            stream.finish(events[0])
            await events[0]
            with pytest.raises(DeadlineError) as caught:
                await events[-1].wait(0.001)
    message = str(caught.value)
    assert "it: _nothing #2 on 's', " in message
    assert "_nothing #4 on 's' and 4996 more" in message
    assert len(message) < 600


async def test_many_deadlines_at_once_are_told_apart() -> None:
    """Each waiter's error is about its own event and its own queue."""
    async with PollingBridge() as bridge:
        with PolledDevice() as device:
            stream = device.polled()
            events = [stream.enqueue(f"e{index}") for index in range(3000)]
            outcomes = await settled(*(event.wait(0.02) for event in events))
            assert bridge.stats.num_waiters == 0
    for event, outcome in zip(events, outcomes, strict=True):
        assert isinstance(outcome, DeadlineError)
        assert f"'{event.label}'" in str(outcome)
    for index in (0, 10, 1000, 2999):
        more = f"#3 on 's' and {index - 2} more;" if index else "#1 on 's';"
        assert more in str(outcomes[index])


async def test_many_deadlines_at_once_do_not_list_the_queue_for_each() -> None:
    """The loop would stand still for seconds: what is listed stays within bounds."""
    num_listed = 0

    def queue_before(number: int) -> list[str]:
        nonlocal num_listed
        num_listed += number
        return [f"work #{index + 1}" for index in range(number)]

    async with PollingBridge():
        with PolledDevice() as device:
            stream = device.polled()
            stream.queue_before = queue_before  # type: ignore[method-assign]  # counts
            events = [stream.enqueue() for _ in range(2000)]
            outcomes = await settled(*(event.wait(0.02) for event in events))
    assert all(isinstance(outcome, DeadlineError) for outcome in outcomes)
    assert "work #3 and 1997 more" in str(outcomes[-1])
    assert num_listed < 200_000


async def test_completion_that_nobody_saw_yet_beats_the_deadline() -> None:
    """Before a wait fails, the device is asked one last time."""

    class Never:
        name = "never"

        def pace(self, stream: object) -> "Never":
            return self

        def begin(self, now_ns: int) -> None:
            """Nothing to plan."""

        def found(self, now_ns: int, num_done: int) -> None:
            """Nothing to learn."""

        def next_look_ns(self, now_ns: int) -> int | None:
            return now_ns + 10**12

    async with PollingBridge(Never()):
        with PolledDevice() as device:
            stream = device.polled()
            event, behind = stream.enqueue(), stream.enqueue()
            wait = asyncio.ensure_future(event.wait(0.005))
            late = asyncio.ensure_future(behind.wait(0.005))
            await asyncio.sleep(0)
            stream.finish(event)
            outcomes = await settled(wait, late)
    assert outcomes[0] is None
    assert isinstance(outcomes[1], DeadlineError)


@pytest.mark.parametrize("timeout", [0, -1, 0.0])
async def test_no_time_at_all_means_one_look(timeout: float) -> None:
    """A wait without patience succeeds for what is done and fails for what is not."""
    async with PollingBridge() as bridge:
        with PolledDevice() as device:
            stream = device.polled()
            event, behind = stream.enqueue(), stream.enqueue()
            stream.finish(event)
            await bridge.wait(event, timeout)
            with pytest.raises(DeadlineError):
                await bridge.wait(behind, timeout)
            assert bridge.stats.num_waiters == 0


async def test_infinite_timeout_is_none_and_nan_is_refused() -> None:
    """Infinity waits without a deadline; what is no number is a mistake."""
    async with PollingBridge() as bridge:
        with PolledDevice() as device:
            stream = device.polled()
            event = stream.enqueue()
            wait = asyncio.ensure_future(bridge.wait(event, math.inf))
            await asyncio.sleep(0)
            with pytest.raises(ValueError, match="timeout is nan"):
                await bridge.wait(event, math.nan)
            stream.finish(event)
            await wait


async def test_earlier_deadline_overtakes() -> None:
    """The one timer follows the earliest deadline, whatever order they come in."""
    async with PollingBridge() as bridge:
        with PolledDevice() as device:
            event = device.polled().enqueue()
            order: list[float] = []

            async def wait(timeout: float) -> None:
                with pytest.raises(DeadlineError):
                    await bridge.wait(event, timeout)
                order.append(timeout)

            far = asyncio.ensure_future(bridge.wait(event, 10**6))
            await asyncio.sleep(0)
            await asyncio.gather(*map(wait, (0.02, 0.01, 0.03, 0.002)))
            far.cancel()
            await settled(far)
    assert order == [0.002, 0.01, 0.02, 0.03]


async def test_deadlines_that_were_not_needed_are_dropped_in_passing() -> None:
    """Ten thousand waits, one after the other, leave no ten thousand entries."""
    async with PollingBridge() as bridge:
        with PolledDevice() as device:
            stream = device.polled()
            anchor = asyncio.ensure_future(bridge.wait(stream.enqueue(), 60))
            await asyncio.sleep(0)
            other = device.polled("other")
            for _ in range(1000):
                event = other.enqueue()
                wait = asyncio.ensure_future(bridge.wait(event, 60))
                await asyncio.sleep(0)
                wait.cancel()
                await settled(wait)
            board = bridge._board
            assert board is not None
            deadlines: Deadlines = board._deadlines
            assert len(deadlines._heap) < 200
            anchor.cancel()
            await settled(anchor)
            assert (len(deadlines._heap), deadlines._handle) == (0, None)


def test_coroutine_that_was_closed_has_no_deadline_any_more() -> None:
    """Nobody fails a wait that nobody is in; its error would be reported as forgotten."""
    reports: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        async with PollingBridge() as bridge:
            with PolledDevice() as device:
                event = device.polled().enqueue()
                abandoned = bridge.wait(event, 0.002)
                abandoned.send(None)
                waiting = asyncio.ensure_future(bridge.wait(event, 0.004))
                await asyncio.sleep(0)
                abandoned.close()
                (outcome,) = await settled(waiting)
                assert isinstance(outcome, DeadlineError)
                assert bridge.stats.num_waiters == 0
        gc.collect()  # a forgotten error is reported when its future dies

    virtual_run(main())  # in which no pause lets the deadline expire before the coroutine is closed
    assert reports == []
