"""Bridges and their loops: which one serves, and what is left when either ends."""

import asyncio
import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import uvloop

from streams.bridge import BridgeClosedError, PollingBridge, running_bridge, wakeups
from streams.event import Event
from tests.conftest import LOOPS
from tests.streams.polled_device import PolledDevice, settled

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]

RUNNERS: dict[str, Run] = {
    "asyncio.run": lambda main: asyncio.run(main()),
    "uvloop.run": lambda main: uvloop.run(main()),
    "anyio.run": lambda main: anyio.run(main),
}


@pytest.fixture(params=RUNNERS)
def run(request: pytest.FixtureRequest) -> Run:
    """Each way to run a loop from its beginning to its end."""
    return RUNNERS[request.param]


def _open_descriptors() -> int:
    if "uvloop" in LOOPS:
        LOOPS["uvloop"]().close()  # the first one of a process opens a pair for good
    gc.collect()
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


async def test_loop_has_one_bridge_until_another_is_installed() -> None:
    """The default bridge is made once; entered ones serve in turn and give way again."""
    default = running_bridge()
    assert running_bridge() is default
    async with PollingBridge("spin") as outer:
        assert running_bridge() is outer
        async with PollingBridge("thread") as inner:
            assert running_bridge() is inner
        assert running_bridge() is outer
    assert running_bridge() is default


async def test_bridges_may_be_left_in_any_order() -> None:
    """Leaving the outer one first leaves the inner one in place."""
    default = running_bridge()
    outer, inner = PollingBridge(), PollingBridge()
    await outer.__aenter__()
    await inner.__aenter__()
    await outer.aclose()
    assert running_bridge() is inner
    await inner.aclose()
    assert running_bridge() is default


async def test_waiter_stays_with_the_bridge_where_it_began() -> None:
    """Installing another bridge takes no waiter along, and harms none."""
    with PolledDevice() as device:
        stream = device.polled()
        event = stream.enqueue()
        wait = asyncio.ensure_future(event.wait())
        await asyncio.sleep(0)
        default = running_bridge()
        async with PollingBridge("spin"):
            assert default.stats.num_waiters == 1
            stream.finish(event)
            await wait


@pytest.mark.parametrize("policy", ["auto", "thread"])
async def test_closing_fails_who_still_waits(policy: str) -> None:
    """Leaving the block tells the waiters, whose events nobody looks after any more."""
    with PolledDevice() as device:
        stream = device.polled()
        event = stream.enqueue("late")
        async with PollingBridge(policy) as bridge:
            waits = [asyncio.ensure_future(event.wait(timeout)) for timeout in (None, 60)]
            await asyncio.sleep(0)
            closing = asyncio.ensure_future(bridge.aclose())
            outcomes = await settled(*waits)
            stream.finish(event)  # lets the thread go
            await closing
        assert [type(outcome) for outcome in outcomes] == [BridgeClosedError] * 2
        assert "'late'" in str(outcomes[0])


async def test_closed_bridge_refuses_to_be_used() -> None:
    """Neither waiting nor entering works again; closing twice does nothing."""
    bridge = PollingBridge()
    async with bridge:
        pass
    await bridge.aclose()
    assert bridge.is_closed
    with pytest.raises(BridgeClosedError, match="cannot be used again"):
        await bridge.wait(PolledDevice().polled().enqueue())
    with pytest.raises(BridgeClosedError):
        async with bridge:
            pytest.fail("entered a closed bridge")


async def test_bridge_that_was_never_used_closes() -> None:
    """Nothing was opened, so nothing has to be closed."""
    bridge = PollingBridge()
    await bridge.aclose()
    assert bridge.is_closed
    assert bridge.stats.polls == 0


async def test_bridge_that_was_never_entered_serves_by_itself() -> None:
    """Calling wait() on a bridge is enough; the loop closes it in the end."""
    bridge = PollingBridge()
    stream = PolledDevice().polled()
    event = stream.enqueue()
    wait = asyncio.ensure_future(bridge.wait(event))
    await asyncio.sleep(0)
    stream.finish(event)
    await wait
    assert running_bridge() is not bridge


def test_bridge_belongs_to_one_loop() -> None:
    """Waiting on it in another loop is an error that says what to do."""
    bridge = PollingBridge()

    async def enter() -> None:
        bridge._bind()

    with asyncio.Runner() as one, asyncio.Runner() as other:
        one.run(enter())
        with pytest.raises(RuntimeError, match="another event loop; use running_bridge"):
            other.run(enter())


def test_no_loop_has_no_bridge() -> None:
    """Outside of a loop there is nothing to wait with."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        running_bridge()


async def test_default_policy_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a wrong one, and a later loop or a corrected variable is not spoiled by it."""
    monkeypatch.setenv("AIO_SCHED_WAIT_POLICY", "lazy")
    with pytest.raises(ValueError, match="'lazy'"):
        running_bridge()
    monkeypatch.setenv("AIO_SCHED_WAIT_POLICY", "low_latency")
    assert running_bridge().policy.name == "low_latency"


@pytest.mark.parametrize("policy", ["auto", "low_latency", "thread", "spin"])
def test_run_that_ends_with_waiters_leaves_nothing(
    run: Run, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks are cancelled, descriptors closed, threads ended, bridges and loops forgotten."""
    monkeypatch.setenv("AIO_SCHED_WAIT_POLICY", policy)
    device = PolledDevice()
    stream = device.polled()
    before = _open_descriptors()
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []
    outcomes: list[asyncio.Future[list[object]]] = []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        done, undone = stream.enqueue(), stream.enqueue()
        wait = asyncio.ensure_future(done.wait(60))
        await asyncio.sleep(0)
        stream.finish(done)
        await wait
        outcomes.append(asyncio.ensure_future(settled(undone.wait(60))))
        await asyncio.sleep(0)
        if policy == "thread":
            device.close()  # or the loop would wait for the blocked thread

    for _ in range(1 if policy == "thread" else 3):
        run(main)
    assert all(outcome.done() for outcome in outcomes)
    outcomes.clear()
    assert _open_descriptors() == before
    assert [ref() for ref in loops if ref() is not None] == []
    assert not [t for t in threading.enumerate() if t.name.startswith("aio-sched-wait")]


@pytest.mark.parametrize("loop_name", LOOPS)
def test_loop_closed_without_ceremony_leaks_nothing(loop_name: str) -> None:
    """Whoever only calls loop.close() gets descriptors back when the loop is collected."""
    device = PolledDevice()
    stream, calling = device.polled("a"), device.calling("b")
    before = _open_descriptors()

    async def main() -> None:
        events = [stream.enqueue(), stream.enqueue(), calling.enqueue()]
        wait = asyncio.ensure_future(events[0].wait())
        armed = asyncio.ensure_future(events[2].wait())
        await asyncio.sleep(0)
        stream.finish(events[0])
        await wait
        armed.cancel()
        await settled(armed)

    loop = LOOPS[loop_name]()
    loop.run_until_complete(main())
    loop.close()
    calling.call_back(99)  # from a stream that does not know that the loop has gone
    forgotten = weakref.ref(loop)
    del loop
    assert _open_descriptors() == before
    assert forgotten() is None


@pytest.mark.parametrize("loop_name", LOOPS)
def test_loop_closed_over_its_waiters_is_no_error(
    loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can be told any more; all is forgotten when the next loop has a bridge."""
    device = PolledDevice()
    stream = device.polled()

    async def wait() -> None:
        waits.append(asyncio.ensure_future(stream.enqueue().wait(60)))
        await asyncio.sleep(0)

    async def use_bridge() -> None:
        running_bridge()

    waits: list[asyncio.Future[None]] = []
    loop = LOOPS[loop_name]()
    loop.run_until_complete(wait())
    loop.close()
    forgotten = weakref.ref(loop)
    del loop
    waits.clear()
    asyncio.run(use_bridge())
    gc.collect()
    assert forgotten() is None
    # asyncio's own words, for the task; pytest fails a test with an unraisable error.
    assert [record.message.partition("\n")[0] for record in caplog.records] == [
        "Task was destroyed but it is pending!"
    ]


def test_bridge_of_a_closed_loop_closes_in_another() -> None:
    """Its waiters cannot be told, as their loop does not run any more."""
    bridge = PollingBridge()
    stream = PolledDevice().polled()
    waits: list[asyncio.Future[None]] = []

    async def wait() -> None:
        waits.append(asyncio.ensure_future(bridge.wait(stream.enqueue())))
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(wait())
    loop.close()
    asyncio.run(bridge.aclose())
    assert bridge.is_closed
    assert not waits[0].done()


def test_thread_that_reports_to_a_closed_loop_ends_quietly() -> None:
    """The loop went away while the thread was blocked; its report goes nowhere."""
    device = PolledDevice()
    stream = device.polled()
    bridge = PollingBridge("thread")
    event = stream.enqueue()

    async def main() -> None:
        wait = asyncio.ensure_future(bridge.wait(event))
        await asyncio.sleep(0)
        stream.wait_until_blocked(event.number)
        wait.cancel()
        await settled(wait)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    stream.finish(event)
    assert bridge._board is not None
    (thread,) = bridge._board._wakeups._threads.values()
    thread.stop()
    assert thread._thread is not None
    thread._thread.join(10)
    assert not thread.is_alive


async def test_call_that_a_living_loop_refuses_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a closed loop excuses a wake-up that fails."""
    with PolledDevice() as device:
        stream = device.calling()
        event = stream.enqueue()
        wait = asyncio.ensure_future(event.wait())
        await asyncio.sleep(0)

        class Refusing:
            def call_soon_threadsafe(self, callback: object) -> None:
                raise RuntimeError("not now")

            def is_closed(self) -> bool:
                return False

        held = running_bridge()._board
        assert held is not None
        refusing = Refusing()
        monkeypatch.setattr(held._wakeups, "_loop", lambda: refusing)
        with pytest.raises(RuntimeError, match="not now"):
            stream.finish(event)
        monkeypatch.undo()
        wait.cancel()
        await settled(wait)


async def test_thread_that_does_not_end_is_reported_and_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver that never returns must not keep the loop from ending."""
    monkeypatch.setattr(wakeups, "_THREAD_END_S", 0.01)
    with PolledDevice("hung") as device:
        stream = device.polled("forward")
        async with PollingBridge("thread"):
            wait = asyncio.ensure_future(stream.enqueue().wait())
            await asyncio.sleep(0)
            stream.wait_until_blocked(1)
        (outcome,) = await settled(wait)
    assert isinstance(outcome, BridgeClosedError)
    assert "wait_thread_blocked" in caplog.text
    assert "hung" in caplog.text


async def test_stream_that_is_dropped_is_forgotten() -> None:
    """A bridge that lives as long as the service keeps no closed streams alive."""
    device = PolledDevice()
    for policy in ("auto", "thread"):
        async with PollingBridge(policy):
            streams = []
            for index in range(3):
                stream = device.polled(f"{policy}{index}")
                event: Event = stream.enqueue()
                wait = asyncio.ensure_future(event.wait())
                await asyncio.sleep(0)
                stream.finish(event)
                await wait
                stream.close()
                streams.append(weakref.ref(stream))
            if policy == "auto":
                del stream, event, wait
                gc.collect()
                assert [ref() for ref in streams if ref() is not None] == []
