"""Strict mode: a clock for each task, joined where the event loop hands on control."""

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from streams.hazards.meetings import Meetings, handoff, tell_handoffs, tell_meetings
from streams.hazards.order import Clock, HostActor, join

__all__ = ["Observer", "TaskHosts", "Token", "handoff"]


class Token(NamedTuple):
    """What comes before a callback, and the task whose step it is, if it is one."""

    clock: Clock
    task: "asyncio.Task[Any] | None"
    name: str


class Observer(Protocol):
    """What an event loop tells of its callbacks; the loop keeps the token for it."""

    def posted(self, callback: Callable[..., object]) -> Token:
        """``callback`` will run; called where it was asked for, on any thread."""

    def running(self, token: Token) -> None:
        """The callback of ``token`` runs from now on."""

    def ran(self) -> None:
        """It has returned."""

    def joined(self, task: "asyncio.Task[Any]") -> None:
        """The running code learns, without being called back, that ``task`` has ended."""


class TaskHosts:
    """The host's actors in strict mode: tasks, plain callbacks, threads, and what is outside.

    A plain callback is an actor of its own each time it runs: two that run in turn are
    ordered only if one led to the other.
    """

    def __init__(self, ids: Iterator[int]) -> None:
        self._ids = ids
        self._tasks: weakref.WeakKeyDictionary[asyncio.Task[Any], HostActor] = (
            weakref.WeakKeyDictionary()
        )
        self._outside = HostActor(next(ids), "host")
        # By thread, not by its number, which a later thread may get with the memory of it.
        self._threads: weakref.WeakKeyDictionary[threading.Thread, HostActor] = (
            weakref.WeakKeyDictionary({threading.current_thread(): self._outside})
        )
        self._loop_thread = 0
        self._token: Token | None = None  # of the callback that runs
        self._callback: HostActor | None = None
        self._is_observed = False
        self.floor: Callable[[], Clock] | None = (
            None  # a thread that begins later comes after nothing
        )
        self._meetings = Meetings()
        tell_handoffs(self)
        tell_meetings(self)

    def current(self) -> HostActor:
        """Return the actor of whoever calls."""
        if self._token is not None and threading.get_ident() == self._loop_thread:
            return self._running()
        if (task := _task()) is not None:
            if not self._is_observed:
                raise RuntimeError(
                    "a strict HazardChecker must be told of the loop's callbacks; call "
                    "loop.add_observer(checker.observer()) before the loop runs, or use "
                    "HazardChecker() with one clock for the host"
                )
            return self._task(task)
        thread = threading.current_thread()
        return self._threads.get(thread) or self._threads.setdefault(
            thread, HostActor(next(self._ids), f"thread {thread.name}")
        )

    def posted(self, callback: Callable[..., object]) -> Token:
        """Take what comes before a callback when it is posted."""
        self._is_observed = True
        owner = getattr(callback, "__self__", None)
        task = owner if isinstance(owner, asyncio.Task) else None
        name = getattr(callback, "__qualname__", type(callback).__name__)
        return Token(self.current().release(), task, name)

    def running(self, token: Token) -> None:
        """Let what runs now come behind the token."""
        self._token, self._callback = token, None
        self._loop_thread = threading.get_ident()
        if token.task is not None:
            join(self._task(token.task).clock, token.clock)

    def ran(self) -> None:
        """What is outside of the loop goes on only when the loop has stopped: after all of it."""
        assert self._token is not None, "ran() follows running()"
        if self._callback is not None:
            join(self._outside.clock, self._callback.clock)
        self._token = self._callback = None

    def joined(self, task: "asyncio.Task[Any]") -> None:
        """Order the running code behind all that the task did."""
        if task in self._tasks:
            join(self.current().clock, self._tasks[task].clock)

    def handoff(self, obj: object) -> None:
        """Order who calls this with an object behind all who called it with that one before."""
        if self._token is None:
            return  # no loop that this checker is told of is running a callback
        actor = self.current()
        self._meetings.take(obj, actor)
        self._meetings.bring(obj, actor)

    def arrive(self, meeting: object) -> None:
        """Bring to a meeting what the caller comes after."""
        if self._token is not None:
            self._meetings.bring(meeting, self.current())

    def depart(self, meeting: object) -> None:
        """Order the caller behind all that was brought to a meeting."""
        if self._token is not None:
            self._meetings.take(meeting, self.current())

    def _running(self) -> HostActor:
        assert self._token is not None, "the caller has looked"
        if self._callback is None:
            task = _task() or self._token.task
            if task is not None:
                self._callback = self._task(task)
            else:
                self._callback = HostActor(next(self._ids), f"callback {self._token.name}")
                join(self._callback.clock, self._token.clock)
        return self._callback

    def _task(self, task: "asyncio.Task[Any]") -> HostActor:
        actor = self._tasks.get(task)
        if actor is None:
            actor = self._tasks[task] = HostActor(next(self._ids), f"task {task.get_name()!r}")
        return actor


def _task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs on this thread
        return None
