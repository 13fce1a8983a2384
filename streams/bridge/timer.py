"""One-shot timers of an event loop that are finer than its own.

No asyncio loop sleeps for less than a millisecond: both the selector loop and
uvloop round to it. Linux has ``timerfd``, a timer that is a file descriptor; it
overshoots by tens of microseconds. Elsewhere the loop's own timers serve.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from streams.clock import ClockTimer, VirtualClock, active_clock, monotonic_ns

__all__ = ["LoopTimer", "TimerFd", "VirtualTimer", "WakeTimer", "open_timer"]

# As <time.h>, <sys/timerfd.h> and <fcntl.h> of Linux have them on every architecture that
# CPython supports; TFD_NONBLOCK and TFD_CLOEXEC are O_NONBLOCK and O_CLOEXEC.
_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_IS_LINUX = sys.platform == "linux"


class WakeTimer(Protocol):
    """A timer that is armed for one moment at a time; the loop's thread only.

    Moments are nanoseconds of ``streams.clock.monotonic_ns``. Arming again replaces the
    former moment; one that has passed fires as soon as the loop gets there.
    """

    def arm(self, at_ns: int) -> None:
        """Call back once at ``at_ns``, never before; after ``close`` do nothing."""

    def disarm(self) -> None:
        """Do not call back, even if the moment has passed already."""

    def close(self) -> None:
        """Give back what the timer holds. Closing twice does nothing."""


def open_timer(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> WakeTimer:
    """Open the finest timer that this platform and ``loop`` have.

    In virtual time it goes by the clock that is active on this thread.
    """
    if (clock := active_clock()) is not None:
        return VirtualTimer(loop, clock, callback)
    if not _IS_LINUX:
        return LoopTimer(loop, callback)
    try:
        return TimerFd(loop, callback)
    except (NotImplementedError, AttributeError):
        # A loop that cannot watch descriptors, or a C library without the calls.
        return LoopTimer(loop, callback)


class TimerFd:
    """A Linux timer descriptor that the loop watches.

    Raises:
        NotImplementedError: the loop cannot watch descriptors.
        AttributeError: the C library has no timerfd.
        OSError: the process has no descriptor left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        self._callback = callback
        self._is_set = False
        create, self._set = _system_calls()
        self._fd = create()
        # A loop that is dropped without shutdown_asyncgens never closes its bridge, and one
        # that cannot watch descriptors raises below.
        self._close_fd = weakref.finalize(self, os.close, self._fd)
        self._close_fd.atexit = False
        # Weak, or the loop would hold the timer and what it calls for as long as it lives.
        self._loop = weakref.ref(loop)
        loop.add_reader(self._fd, _fire, weakref.ref(self))

    def __repr__(self) -> str:
        return f"<TimerFd {self._fd if self._close_fd.alive else 'closed'}>"

    def arm(self, at_ns: int) -> None:
        """Call back once at ``at_ns``; zero would disarm, so the past is one."""
        self._is_set = True
        if self._close_fd.alive:
            self._set(self._fd, max(at_ns, 1))

    def disarm(self) -> None:
        """Stop the timer and forget an expiry that was not yet delivered."""
        # The garbage collector may close the descriptor before it ends a coroutine that waits.
        if self._close_fd.alive:
            self._set(self._fd, 0)

    def close(self) -> None:
        """Stop watching the descriptor and close it."""
        if self._close_fd.alive:
            loop = self._loop()
            if loop is not None and not loop.is_closed():
                loop.remove_reader(self._fd)
            self._close_fd()

    def fire(self) -> None:
        """Call back, and see to it that the descriptor is readable no longer."""
        self._is_set = False
        try:
            self._callback()
        finally:
            # Arming it anew consumes the expiry, too.
            if not self._is_set and self._close_fd.alive:
                self._consume()

    def _consume(self) -> None:
        with contextlib.suppress(BlockingIOError):  # disarmed, or armed anew, meanwhile
            os.read(self._fd, 8)


def _fire(timer: "weakref.ref[TimerFd]") -> None:
    alive = timer()
    if alive is not None:
        alive.fire()


class LoopTimer:
    """The loop's own timer: a millisecond or so late, on any platform."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        self._loop = weakref.ref(loop)
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._at_ns = 0

    def arm(self, at_ns: int) -> None:
        """Replace the handle; the loop rounds to its own resolution."""
        self.disarm()
        self._at_ns = at_ns
        loop = self._loop()
        if loop is not None:
            delay_s = max(0, at_ns - monotonic_ns()) / 1e9
            self._handle = loop.call_later(delay_s, self._fire)

    def disarm(self) -> None:
        """Cancel the handle."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def close(self) -> None:
        """Cancel the handle."""
        self.disarm()

    def _fire(self) -> None:
        self._handle = None
        if monotonic_ns() < self._at_ns:
            self.arm(self._at_ns)  # uvloop rounds to the nearest millisecond, also down
        else:
            self._callback()


class VirtualTimer:
    """A timer on a virtual clock, which knows its calls as mere looks."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: VirtualClock,
        callback: Callable[[], object],
    ) -> None:
        self._loop = weakref.ref(loop)
        self._clock = clock
        self._callback = callback
        self._timer: ClockTimer | None = None
        self._handle: asyncio.Handle | None = None

    def arm(self, at_ns: int) -> None:
        """Call back in the loop's first turn at or after ``at_ns``."""
        self.disarm()
        self._timer = self._clock.call_at(at_ns, self._expire, is_poll=True)

    def disarm(self) -> None:
        """Take back the clock's call, and the loop's."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def close(self) -> None:
        """Take back what was armed."""
        self.disarm()

    def _expire(self) -> None:
        # The clock may be moved from within a task, or a look: the loop calls, as for a
        # descriptor, when they have had their turn.
        self._timer = None
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            self._handle = loop.call_soon(self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._callback()


_Create = Callable[[], int]
_Set = Callable[[int, int], None]


def _system_calls() -> tuple[_Create, _Set]:
    """Return how to create a timer and how to set it to an absolute time (0 disarms)."""
    if hasattr(os, "timerfd_create"):
        return _python_calls(os)
    return _libc_calls()


def _python_calls(os: Any) -> tuple[_Create, _Set]:  # Any: typed for Python 3.13 and later only
    def create() -> int:
        fd: int = os.timerfd_create(_CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)
        return fd

    def set_to(fd: int, at_ns: int) -> None:
        os.timerfd_settime_ns(fd, flags=os.TFD_TIMER_ABSTIME, initial=at_ns)

    return create, set_to


def _libc_calls() -> tuple[_Create, _Set]:
    # PyDLL keeps the GIL: the calls never block, and giving it up would let another
    # thread in for up to a switch interval, at the very moment that is to be met.
    libc = ctypes.PyDLL(None, use_errno=True)
    timerfd_create, timerfd_settime = libc.timerfd_create, libc.timerfd_settime
    # struct itimerspec {interval s, interval ns, value s, value ns}, used under the GIL.
    spec = (ctypes.c_long * 4)()

    def create() -> int:
        fd: int = timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0:
            raise _os_error("timerfd_create")
        return fd

    def set_to(fd: int, at_ns: int) -> None:
        spec[2], spec[3] = divmod(at_ns, 1_000_000_000)
        if timerfd_settime(fd, _TFD_TIMER_ABSTIME, spec, None) < 0:
            raise _os_error("timerfd_settime")

    return create, set_to


def _os_error(call: str) -> OSError:
    number = ctypes.get_errno()
    name = errno.errorcode.get(number, "?")
    return OSError(number, f"{call} failed: {name} {os.strerror(number)}")
