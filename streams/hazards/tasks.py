"""Strict mode: a clock for each task, joined where the event loop hands on control."""

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from streams.hazards.order import Clock, HostActor, join

__all__ = ["Observer", "TaskHosts", "Token", "handoff"]

_MAX_KEPT = 256


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
        # What was handed over without waking anybody, by identity; where an object cannot be
        # referred to weakly it is kept, or another one could take its identity.
        self._handed: dict[int, tuple[Clock, object]] = {}
        self._kept: deque[int] = deque()  # the identities of those, oldest first
        _strict.add(self)

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
        clock, _ = self._handed.get(id(obj), ({}, None))
        join(actor.clock, clock)
        self._handed[id(obj)] = (actor.release(), self._hold(obj))

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

    def _hold(self, obj: object) -> object:
        identity = id(obj)
        if identity in self._handed:
            return self._handed[identity][1]
        try:
            return weakref.ref(obj, lambda _: self._handed.pop(identity, None))
        except TypeError:
            self._kept.append(identity)
            if len(self._kept) > _MAX_KEPT:
                del self._handed[self._kept.popleft()]
            return obj


def handoff(obj: object) -> None:
    """Tell strict hazard checkers that ``obj`` passes from one task to another here.

    For a hand-over in which nobody is woken, such as a queue that was not empty: the giver
    calls it with the object before he gives it away, the taker when he has it. It orders all
    who call it with the same object. Without a strict checker it does nothing. Of objects that
    cannot be referred to weakly (tuples, lists, numbers) a checker keeps the latest 256 alive,
    and forgets who called with an older one.
    """
    if _strict:  # the loop hands over some ten times a step, and iterating costs ten times this
        for hosts in tuple(_strict):
            hosts.handoff(obj)


_strict: "weakref.WeakSet[TaskHosts]" = weakref.WeakSet()


def _task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs on this thread
        return None
