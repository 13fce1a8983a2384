"""An event loop in virtual time: it never sleeps, and knows when nothing can ever run.

Whenever no callback is ready, time jumps to the next timer of the loop or event of its
clock. A run is a function of the program and of the seed. There are no threads here, and
no sockets: ``run_in_executor`` runs its function at once, in the loop's thread.
"""

import asyncio
import contextvars
import heapq
import math
import selectors
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack

from aio_sched.testing.errors import DeadlockError, LivelockError
from aio_sched.testing.observers import (
    LoopObserver,
    ObservedHandle,
    ObservedTimer,
    TaskFactory,
    tokens_of,
)
from aio_sched.testing.strategies import Choice, FifoOrder, Order, RandomOrder
from aio_sched.testing.turns import ReadySteps
from aio_sched.testing.wait_graph import busy_tasks, wait_graph
from streams.clock import VirtualClock, use_clock

__all__ = ["VirtualLoop"]

T = TypeVar("T")
Args = TypeVarTuple("Args")

# The share of the permitted turns, the last ones, in which each task's steps are counted.
_COUNTED_SHARE = 0.1
# Turns for the clean-up after a livelock was found.
_GRACE_TURNS = 10_000
# How often tasks are cancelled again that wait on in the clean-up after a deadlock.
_MOST_CANCELS = 10


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop on a ``VirtualClock``, for tests.

    Use it like any other: ``asyncio.Runner(loop_factory=VirtualLoop)``, a factory of
    pytest-asyncio, ``anyio.run(..., backend_options={"loop_factory": VirtualLoop})``;
    ``virtual_run`` is the short way. While it runs, ``streams.clock`` goes by its clock
    on this thread, and with it deadlines, statistics and traces of the library.

    Not in virtual time: threads (``run_in_executor`` and ``asyncio.to_thread`` run the
    function in place; other threads are not waited for), sockets, pipes, subprocesses.

    Args:
        seed: decides the order of task steps that are ready at one moment.
        shuffle: False keeps asyncio's own order, first in, first out.
        max_steps: turns of the loop before it is taken for a livelock.
        strategy: another order; ``seed`` and ``shuffle`` do not matter then.

    Attributes:
        clock: the time; calls put there are made as it moves.
        seed: as given.
        num_turns: turns made so far.
        observers: who is told of callbacks; see ``add_observer``.

    Raises:
        ValueError: ``max_steps`` is below 1.
        DeadlockError: from running: no callback is ready, no timer is set, and no event
            is due on the clock, or mere polls of devices on which nothing goes on.
        LivelockError: from running: more than ``max_steps`` turns.
    """

    # Of the base class; the type stubs do not tell.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _signal_handlers: dict[int, asyncio.Handle]
    _clock_resolution: float
    _closed = True  # until the base class has made it

    def __init__(
        self,
        seed: int = 0,
        shuffle: bool = True,
        max_steps: int = 200_000,
        strategy: Order | None = None,
    ) -> None:
        if max_steps < 1:
            raise ValueError(f"max_steps={max_steps} permits no turn; use at least 1")
        self.clock = VirtualClock()
        self.seed = seed
        self.num_turns = 0
        self.observers: list[LoopObserver] = []
        self._max_turns = max_steps
        self._count_from = int(max_steps * (1 - _COUNTED_SHARE))
        self._steps = ReadySteps(strategy or (RandomOrder(seed) if shuffle else FifoOrder()))
        super().__init__(_Selector(self._before_turn))
        self._clock_resolution = 1e-9
        self._deadlock: DeadlockError | None = None
        self._cancels_left = _MOST_CANCELS
        self.set_task_factory(TaskFactory())  # type: ignore[arg-type]  # its tasks are this loop's

    @property
    def choices(self) -> list[Choice]:
        """Which task steps ran in each turn that had any, for ``Replay``."""
        return self._steps.choices

    @property
    def num_steps(self) -> int:
        """Task steps that ran so far."""
        return self._steps.num_steps

    def add_observer(self, observer: LoopObserver) -> None:
        """Tell ``observer`` who posts and who runs what, from now on."""
        self.observers.append(observer)

    def time(self) -> float:
        """Return the virtual time in seconds; it starts at 0."""
        return self.clock.now_ns / 1e9

    def run_forever(self) -> None:
        """Run until stopped, with the loop's clock active on this thread."""
        with use_clock(self.clock):
            super().run_forever()

    def close(self) -> None:
        """Close, and let go of what was found."""
        super().close()
        self._deadlock = None

    # What there is not ------------------------------------------------------

    def run_in_executor(
        self, executor: object, func: Callable[[Unpack[Args]], T], *args: *Args
    ) -> "asyncio.Future[T]":
        """Run ``func`` here and now; a function that waits for this loop never returns."""
        self._check_closed()  # type: ignore[attr-defined]  # private
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    async def _make_subprocess_transport(self, *args: Any, **options: Any) -> NoReturn:
        raise _not_virtual("a subprocess")

    def _write_to_self(self) -> None:
        """Wake nobody: the selector does not sleep."""

    # Posting ----------------------------------------------------------------

    def _call_soon(
        self,
        callback: Callable[..., object],
        args: Any,
        context: contextvars.Context | None,
    ) -> asyncio.Handle:
        handle: asyncio.Handle
        if self.observers:
            handle = ObservedHandle(callback, args, self, context)
            handle.tokens = tokens_of(self.observers, callback)
        else:
            handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Args]], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call ``callback`` at a virtual time in seconds."""
        if not self.observers:
            return super().call_at(when, callback, *args, context=context)
        self._check_closed()  # type: ignore[attr-defined]  # private
        timer = ObservedTimer(when, callback, args, self, context)
        timer.tokens = tokens_of(self.observers, callback)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]  # private
        return timer

    # Turns ------------------------------------------------------------------

    def _before_turn(self, timeout: float | None) -> None:
        """Stand in for the selector: see to it that something is ready, or raise."""
        self._count_turn()
        if self._signal_handlers:
            self._read_from_self()  # type: ignore[attr-defined]  # private
        clock = self.clock
        if (due_ns := clock.next_ns) is not None and due_ns <= clock.now_ns:
            clock.advance_to(clock.now_ns)
        if not (timeout == 0 or self._ready or self._steps.held):
            self._move_on()
        self._steps.arrange(self._ready)

    def _move_on(self) -> None:
        """Let the time come at which something happens next."""
        timer_ns = self._next_timer_ns()
        clock = self.clock
        event_ns = clock.next_ns
        if event_ns is None or not (clock.has_events or self._has_news()):
            if self._ready:
                return  # a look takes time, in which something else came due
            if timer_ns is None:
                self._stuck(is_polling=event_ns is not None)
                return
            event_ns = None  # jump over the polls: each is made once, late
        clock.advance_to(min(ns for ns in (timer_ns, event_ns) if ns is not None))
        # Seconds in a float get coarser: a timer must be due when its nanosecond has come.
        self._clock_resolution = max(1e-9, 8 * math.ulp(self.time()))

    def _has_news(self) -> bool:
        return any(lookout.would_find() for lookout in self.clock.lookouts)

    def _next_timer_ns(self) -> int | None:
        when = self._scheduled[0].when() if self._scheduled else math.inf
        # To the nearest: what lies behind the ninth decimal is rounding.
        return None if when == math.inf else max(round(when * 1e9), self.clock.now_ns)

    def _count_turn(self) -> None:
        self.num_turns += 1
        if self.num_turns == self._count_from:
            self._steps.is_counting = True
        if self.num_turns > self._max_turns:
            limit, self._max_turns = self._max_turns, self._max_turns + _GRACE_TURNS
            raise LivelockError(
                f"{limit} turns of the loop did not end at {self.time():.9f} s of virtual time "
                f"(seed {self.seed}); raise max_steps if the program needs more\n"
                f"{busy_tasks(self, self._steps.num_runs)}"
            )

    def _stuck(self, *, is_polling: bool) -> None:
        """Raise; but let the clean-up after a deadlock end, also of what waits on in it."""
        if self._deadlock is not None and self._cancel_again(self._deadlock):
            return
        how = "no timer is set, and no event due"
        if is_polling:
            how = "only polls could run, and none would find anything"
        self._deadlock = DeadlockError(
            f"nothing can ever run again at {self.time():.9f} s of virtual time "
            f"(seed {self.seed}): {how}\n{wait_graph(self)}"
        )
        raise self._deadlock

    def _cancel_again(self, found: DeadlockError) -> bool:
        """Cancel once more what was cancelled and waits on; False if there is no such task."""
        waiting = [task for task in asyncio.all_tasks(self) if task.cancelling()]
        self._cancels_left -= 1
        if not waiting or self._cancels_left < 0:
            return False
        found.add_note(f"while it was cancelled a task waited for ever again\n{wait_graph(self)}")
        for task in sorted(waiting, key=hash):
            task.cancel()
        return True


class _Selector(selectors.BaseSelector):
    """Serves the loop's own pipe, for signals, and no other descriptor."""

    def __init__(self, before_turn: Callable[[float | None], object]) -> None:
        self._before_turn: Callable[[float | None], object] | None = before_turn
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self._keys:
            raise _not_virtual(f"descriptor {fileobj}")
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, fileobj, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert self._before_turn is not None, "a closed selector is asked by nobody"
        self._before_turn(timeout)
        return []

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys[fileobj]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def close(self) -> None:
        self._keys.clear()
        self._before_turn = None


def _not_virtual(what: str) -> NotImplementedError:
    return NotImplementedError(
        f"{what} cannot be waited for in virtual time, which does not wait for the world "
        "outside; use a fake, or run this on another event loop"
    )
