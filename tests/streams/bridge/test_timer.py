"""Timers that are finer than the loop's own, and the loop's own where there are none."""

import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable

import pytest

from streams.bridge import timer as timer_module
from streams.bridge.timer import LoopTimer, TimerFd, WakeTimer, open_timer

_MS = 1_000_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")

Open = Callable[[asyncio.AbstractEventLoop, Callable[[], object]], WakeTimer]


@pytest.fixture(params=[TimerFd, LoopTimer])
def open_one(request: pytest.FixtureRequest) -> Open:
    """Each kind of timer."""
    chosen: Open = request.param
    return chosen


class _Alarm:
    """Notes when it was called, and lets a test wait for that."""

    def __init__(self) -> None:
        self.called_ns: list[int] = []
        self._called = asyncio.Event()

    def __call__(self) -> None:
        self.called_ns.append(time.monotonic_ns())
        self._called.set()

    async def rung(self) -> int:
        await asyncio.wait_for(self._called.wait(), 10)
        self._called.clear()
        return self.called_ns[-1]


async def _turns() -> None:
    """Let the loop look at its descriptors and timers many times, for five milliseconds."""
    end = time.monotonic_ns() + 5 * _MS
    while time.monotonic_ns() < end:  # noqa: ASYNC110 - it is the turns that matter
        await asyncio.sleep(0)


async def test_armed_timer_calls_back_once_and_not_before(open_one: Open) -> None:
    """The callback comes at each moment or after it, one time."""
    alarm = _Alarm()
    timer = open_one(asyncio.get_running_loop(), alarm)
    for microseconds in (300, 1400, 2600):  # uvloop would round some of them down
        at_ns = time.monotonic_ns() + microseconds * 1000
        timer.arm(at_ns)
        assert await alarm.rung() >= at_ns
    await _turns()
    assert len(alarm.called_ns) == 3
    timer.close()


async def test_moment_in_the_past_calls_back_at_once(open_one: Open) -> None:
    """Whoever arms too late is called as soon as the loop gets there."""
    alarm = _Alarm()
    timer = open_one(asyncio.get_running_loop(), alarm)
    for at_ns in (-5, 0, time.monotonic_ns() - _MS):
        timer.arm(at_ns)
        await alarm.rung()
    timer.close()


async def test_arming_again_replaces_the_moment(open_one: Open) -> None:
    """Later as well as earlier, only the last moment counts."""
    alarm = _Alarm()
    timer = open_one(asyncio.get_running_loop(), alarm)
    now_ns = time.monotonic_ns()
    timer.arm(now_ns + 10_000_000 * _MS)
    timer.arm(now_ns + 1 * _MS)
    timer.arm(now_ns + 4 * _MS)
    assert await alarm.rung() >= now_ns + 4 * _MS
    assert len(alarm.called_ns) == 1
    timer.close()


async def test_disarmed_timer_stays_silent_even_if_it_expired(open_one: Open) -> None:
    """An expiry that was not delivered yet is taken back."""
    alarm = _Alarm()
    timer = open_one(asyncio.get_running_loop(), alarm)
    timer.arm(time.monotonic_ns() - _MS)
    timer.disarm()
    await _turns()
    assert not alarm.called_ns
    timer.close()


async def test_timer_may_be_armed_from_its_own_callback(open_one: Open) -> None:
    """A callback arms the next moment, until it has enough."""
    done = asyncio.Event()
    num_calls = 0

    def again() -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls < 5:
            timer.arm(time.monotonic_ns() + 100_000)
        else:
            done.set()

    timer = open_one(asyncio.get_running_loop(), again)
    timer.arm(0)
    await asyncio.wait_for(done.wait(), 10)
    await _turns()
    assert num_calls == 5
    timer.close()


async def test_timer_may_be_closed_from_its_own_callback(open_one: Open) -> None:
    """Closing inside the callback is the end of it, and closing twice is once."""
    alarm = _Alarm()

    def end() -> None:
        timer.close()
        alarm()

    timer = open_one(asyncio.get_running_loop(), end)
    timer.arm(0)
    await alarm.rung()
    timer.close()


async def test_callback_that_raises_does_not_ring_on(
    open_one: Open, loop_reports: list[dict[str, object]]
) -> None:
    """An error goes to the loop's handler once; the timer works on."""
    alarm = _Alarm()
    fails = True

    def callback() -> None:
        alarm()
        if fails:
            raise RuntimeError("boom")

    timer = open_one(asyncio.get_running_loop(), callback)
    timer.arm(0)
    await alarm.rung()
    await _turns()
    assert [str(report["exception"]) for report in loop_reports] == ["boom"]
    loop_reports.clear()
    fails = False
    timer.arm(0)
    await alarm.rung()
    assert len(alarm.called_ns) == 2
    timer.close()


async def test_closed_timer_gives_its_descriptor_back() -> None:
    """Opening and closing many timers uses no more descriptors than one."""
    before = os.listdir("/proc/self/fd")
    for _ in range(10):
        timer = TimerFd(asyncio.get_running_loop(), lambda: None)
        timer.arm(time.monotonic_ns() + 1000 * _MS)
        timer.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("closes_loop", [True, False])
def test_forgotten_timer_gives_its_descriptor_back(closes_loop: bool) -> None:
    """A loop that ends without anybody closing the timer leaks nothing either."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    loop = asyncio.new_event_loop()
    timer = TimerFd(loop, lambda: None)
    if closes_loop:
        loop.close()
        timer.close()
    else:
        del timer
        loop.close()
    del loop
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


class _Deaf(asyncio.SelectorEventLoop):
    """A loop that watches no descriptors, as Windows' proactor."""

    def add_reader(self, fd: object, callback: object, *args: object) -> None:
        raise NotImplementedError


def test_loop_without_readers_gets_its_own_timer() -> None:
    """Where descriptors cannot be watched the loop's timer serves, and none is left open."""
    before = len(os.listdir("/proc/self/fd"))
    loop = _Deaf()
    timer = open_timer(loop, lambda: None)
    assert isinstance(timer, LoopTimer)
    loop.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_platform_without_timerfd_gets_the_loops_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Linux has timerfd."""
    monkeypatch.setattr(timer_module, "_IS_LINUX", False)
    loop = asyncio.new_event_loop()
    assert isinstance(open_timer(loop, lambda: None), LoopTimer)
    loop.close()


async def test_python_that_has_timerfd_is_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 3.13 on the os module makes the calls; absolute times in nanoseconds, 0 disarms."""
    libc_create, libc_set = timer_module._libc_calls()
    calls: list[tuple[int, int]] = []

    def create(clock: int, /, *, flags: int) -> int:
        assert (clock, flags) == (time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        return libc_create()

    def settime_ns(fd: int, /, *, flags: int, initial: int) -> None:
        assert flags == 1
        calls.append((fd, initial))
        libc_set(fd, initial)

    for name, value in {
        "TFD_NONBLOCK": os.O_NONBLOCK,
        "TFD_CLOEXEC": os.O_CLOEXEC,
        "TFD_TIMER_ABSTIME": 1,
        "timerfd_create": create,
        "timerfd_settime_ns": settime_ns,
    }.items():
        monkeypatch.setattr(os, name, value, raising=False)
    alarm = _Alarm()
    timer = TimerFd(asyncio.get_running_loop(), alarm)
    timer.arm(-7)
    await alarm.rung()
    timer.disarm()
    timer.close()
    assert [at_ns for _, at_ns in calls] == [1, 0]


def test_failing_call_says_which_and_why() -> None:
    """The error names the call and carries the number of the C library."""
    _, set_to = timer_module._libc_calls()
    with pytest.raises(OSError, match="timerfd_settime failed: EBADF") as caught:
        set_to(-1, 1)
    assert caught.value.errno is not None
