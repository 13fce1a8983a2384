"""Time on a virtual loop: it jumps, in order, and everything reads the same time."""

import asyncio
import math
import os
import signal
import socket
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aio_sched.testing import VirtualLoop, virtual_run
from streams.clock import active_clock, monotonic_ns, perf_s


def test_long_sleep_takes_no_time() -> None:
    """A thousand seconds pass on the loop, and next to none outside."""

    async def main() -> float:
        await asyncio.sleep(1000)
        return asyncio.get_running_loop().time()

    before_s = time.monotonic()
    assert virtual_run(main()) == 1000
    assert time.monotonic() - before_s < 100


def test_timers_fire_in_the_order_of_their_times() -> None:
    """Whoever sleeps less goes on first, at exactly its time."""
    woken: list[tuple[int, float]] = []

    async def sleeper(ms: int) -> None:
        await asyncio.sleep(ms / 1000)
        woken.append((ms, asyncio.get_running_loop().time()))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for ms in (30, 10, 20, 5):
                group.create_task(sleeper(ms))

    virtual_run(main())
    assert woken == [(ms, ms / 1000) for ms in (5, 10, 20, 30)]


@settings(deadline=None)
@given(
    st.lists(st.floats(1e-12, 1e3), min_size=1, max_size=20),
    st.sampled_from([0, 1, 86_400, 10**9, 10**12]),
)
def test_no_timer_is_missed_by_a_rounding(delays_s: list[float], start_s: int) -> None:
    """However coarse a float of seconds is, each sleep ends in one jump of the clock."""
    loops: list[VirtualLoop] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loops.append(loop)
        await asyncio.sleep(start_s)
        for delay_s in delays_s:
            await asyncio.sleep(delay_s)

    virtual_run(main())
    assert loops[0].num_turns < 4 * len(delays_s) + 20


def test_event_of_the_clock_comes_between_timers() -> None:
    """Calls put on the clock are made in order with the loop's own timers."""
    seen: list[tuple[str, int]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        clock = loop.clock
        for ms in (1, 3):
            loop.call_later(ms / 1000, lambda: seen.append(("timer", clock.now_ns)))
        clock.call_at(2_000_000, lambda: seen.append(("event", clock.now_ns)))
        await asyncio.sleep(0.004)

    virtual_run(main())
    assert seen == [("timer", 1_000_000), ("event", 2_000_000), ("timer", 3_000_000)]


def test_event_that_is_due_now_waits_for_no_idle_moment() -> None:
    """A task that never rests does not keep the clock from what is due already."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        called = asyncio.Event()
        loop.clock.call_at(0, lambda: loop.call_soon_threadsafe(called.set))
        while not called.is_set():  # noqa: ASYNC110 - never resting is the point
            await asyncio.sleep(0)

    virtual_run(main(), max_steps=100)


def test_library_reads_virtual_time_while_the_loop_runs() -> None:
    """Deadlines and traces go by the loop's clock inside, and by the machine's outside."""

    async def main() -> tuple[int, float]:
        await asyncio.sleep(2)
        return monotonic_ns(), perf_s()

    assert virtual_run(main()) == (2_000_000_000, 2.0)
    assert active_clock() is None
    assert abs(monotonic_ns() - time.monotonic_ns()) < 1e11


def test_time_goes_on_where_the_loop_stopped() -> None:
    """A loop that runs a second time has not lost its time, nor its timers."""
    loop = VirtualLoop()
    loop.run_until_complete(asyncio.sleep(3))
    loop.run_until_complete(asyncio.sleep(4))
    assert loop.time() == 7
    loop.close()


def test_endless_sleep_is_no_timer() -> None:
    """A sleep until infinity leaves the others' timers alone."""

    async def main() -> float:
        forever = asyncio.create_task(asyncio.sleep(math.inf))
        await asyncio.sleep(5)
        forever.cancel()
        return asyncio.get_running_loop().time()

    assert virtual_run(main()) == 5


def test_executor_runs_in_place() -> None:
    """There are no threads: a function runs here and now, and its exception arrives."""

    async def main() -> None:
        assert await asyncio.to_thread(threading.current_thread) is threading.current_thread()
        with pytest.raises(ZeroDivisionError):
            await asyncio.get_running_loop().run_in_executor(None, lambda: 1 / 0)

    virtual_run(main())


def test_descriptors_are_refused() -> None:
    """A socket or subprocess would be waited for in vain, so it is an error at once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs, pytest.raises(NotImplementedError, match="virtual time"):
            await loop.sock_recv(ours, 1)
        with pytest.raises(NotImplementedError, match="virtual time"):
            await asyncio.create_subprocess_exec(sys.executable, "-c", "")

    virtual_run(main())


def test_signal_handler_is_called() -> None:
    """A signal that the program sends to itself reaches the loop's handler."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, told.set)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(1):
            await told.wait()
        loop.remove_signal_handler(signal.SIGTERM)

    virtual_run(main())


def test_limit_below_one_turn_is_refused() -> None:
    """A loop that may make no turn is a mistake."""
    with pytest.raises(ValueError, match="max_steps=0"):
        VirtualLoop(max_steps=0)
