"""The virtual time of one simulated device: which clock it is, and who moves it on."""

import asyncio
import contextvars
import itertools
import threading
import weakref
from collections.abc import Callable
from functools import partial

from streams.clock import ClockTimer, VirtualClock, active_clock
from streams.errors import DeadlockError

__all__ = ["Timeline"]


class Timeline:
    """Calls what a device has to do, at its time.

    While a virtual-clock loop runs on the thread, its clock is used and the loop moves
    it on. Else the device has a clock of its own. A real event loop moves that on by one
    event per turn, so that time passes by itself as on a real device; without a loop,
    whoever blocks for the device does, on whatever thread.

    Args:
        failed: told what a call raised; no call should.

    Attributes:
        changed: notified after each call. Its lock is held in every call: the device's
            state belongs to whoever holds it.
        clock: the one that the device goes by now.
        latched: what ends when somebody releases it, not at a time.
    """

    def __init__(self, failed: Callable[[Exception], object]) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.latched: set[object] = set()
        self._failed = failed
        self.clock = VirtualClock()
        self._pending: dict[int, ClockTimer] = {}
        self._numbers = itertools.count()
        # Whether a call is being made; it may ask the device questions, which then cost nothing.
        self._is_calling = False
        self._pump = _Pump(self._turn)

    def __repr__(self) -> str:
        return f"<Timeline at {self.clock.now_ns / 1e6:.3f} ms, {len(self._pending)} pending>"

    @property
    def now_ns(self) -> int:
        """Virtual nanoseconds."""
        return self.clock.now_ns

    @property
    def is_pending(self) -> bool:
        """Whether anything will happen by the passing of time alone."""
        return bool(self._pending)

    def adopt_clock(self) -> None:
        """Go by the clock that is active on this thread, if there is one."""
        active = active_clock()
        if active is not None and active is not self.clock and not self._is_calling:
            while self._pending and self.clock.advance_to_next():
                pass  # what began on the former clock ends on it
            self.clock = active

    def call_at(self, at_ns: int, call: Callable[[], object]) -> None:
        """Make ``call`` when the clock gets to ``at_ns``."""
        # By number: a timer that its own call refers to would live until garbage is collected.
        number = next(self._numbers)
        self._pending[number] = self.clock.call_at(at_ns, partial(self._due, number, call))
        self.keep_moving()

    def call_soon(self, call: Callable[[], object]) -> None:
        """Make ``call`` at the present moment of the clock; from any thread."""
        with self.changed:
            self.call_at(self.clock.now_ns, call)
            self.changed.notify_all()

    def spend(self, duration_ns: int) -> None:
        """Let time pass, unless the caller is a call of the device itself."""
        if not self._is_calling:
            self.clock.advance_to(self.clock.now_ns + duration_ns)
            self.keep_moving()

    def block_while(self, is_waiting: Callable[[], bool], report: Callable[[], str]) -> None:
        """Move the clock on, on this thread, until ``is_waiting`` says no; it may raise.

        Raises:
            DeadlockError: nothing is pending that could end the wait.
        """
        with self.changed:
            self.adopt_clock()
            while is_waiting():
                if self._is_calling:
                    raise DeadlockError(
                        "a launch's function waits for its own device, which cannot go on "
                        f"before it returns; {report()}"
                    )
                if self.clock.advance_to_next():
                    continue
                if not self.latched:
                    raise DeadlockError(f"this wait can never end: {report()}")
                self.changed.wait()

    def cancel_all(self) -> None:
        """Make none of the calls that are pending."""
        with self.changed:
            for timer in self._pending.values():
                timer.cancel()
            self._pending.clear()
            self.latched.clear()
            self.changed.notify_all()

    def keep_moving(self) -> None:
        """See to it that a real event loop moves the clock on while anything is pending."""
        if self._pending and active_clock() is None:
            self._pump.start()

    def _due(self, number: int, call: Callable[[], object]) -> None:
        with self.changed:
            self._pending.pop(number, None)
            former, self._is_calling = self._is_calling, True
            try:
                call()
            except Exception as error:  # a monitor's or a callback's, or ours
                self._failed(error)
            finally:
                self._is_calling = former
                self.changed.notify_all()

    def _turn(self) -> bool:
        """Move on to the next event; return whether there is another."""
        with self.changed:
            if self._pending and not self._is_calling:
                self.clock.advance_to_next()
            return bool(self._pending)

    def renew_lock(self) -> None:
        """In a forked child: forget that another thread may have held the lock."""
        self.changed = threading.Condition(threading.RLock())


class _Pump:
    """Calls ``turn`` once per turn of the event loop, as long as that returns True."""

    def __init__(self, turn: Callable[[], bool]) -> None:
        self._turn = turn
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._is_scheduled = False

    def start(self) -> None:
        """Begin, on this thread's running loop, or on the one that was used last."""
        former = self._loop() if self._loop is not None else None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            if former is not None and not self._is_scheduled:
                self._wake(former)
            return
        if loop is not former or not self._is_scheduled:
            self._loop = weakref.ref(loop)
            self._is_scheduled = True
            self._call_soon(loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.call_soon_threadsafe(partial(self._run, loop))
        except RuntimeError:
            if not loop.is_closed():
                raise
        else:
            self._is_scheduled = True

    def _call_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not in the context of whoever happens to launch: the pump outlives that task.
        loop.call_soon(partial(self._run, loop), context=contextvars.Context())

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is None or self._loop() is not loop:
            return  # another loop has taken over
        self._is_scheduled = self._turn()
        if self._is_scheduled:
            self._call_soon(loop)
