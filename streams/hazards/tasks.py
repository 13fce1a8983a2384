"""Strict mode: a clock for each task, joined where the event loop hands on control."""

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from streams.hazards.meetings import Meetings, handoff, tell_handoffs, tell_meetings
from streams.hazards.order import Clock
from streams.hazards.ranks import Ranked, Unranked, current_rank

__all__ = ["Observer", "TaskHosts", "Token", "handoff"]


class Token(NamedTuple):
    """What comes before a callback, and the task whose step it is, if it is one.

    Attributes:
        clock: all that comes before it, if it is one of the same rank.
        task: None of a plain callback.
        name: the callback's.
        rank: of who posted it; None outside of ranks.
        known: of a poster outside of ranks, what comes before it for other sakes than theirs.
        seen: and what for the sake of each.
    """

    clock: Clock
    task: "asyncio.Task[Any] | None"
    name: str
    rank: int | None = None
    known: Clock | None = None
    seen: Mapping[int, Clock] = {}


class _RankedTask(Ranked):
    """A task, or a callback, that acts for a rank."""

    __slots__ = ()
    joined_by = "a collective or handoff; within the rank an await or a wake-up"


_Host = _RankedTask | Unranked


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
        self._tasks: weakref.WeakKeyDictionary[asyncio.Task[Any], _Host] = (
            weakref.WeakKeyDictionary()
        )
        # Of tasks that were made for one; those of all others are None.
        self._ranks: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()
        self._outside = Unranked(next(ids), "host")
        # By thread, not by its number, which a later thread may get with the memory of it.
        self._threads: weakref.WeakKeyDictionary[threading.Thread, Unranked] = (
            weakref.WeakKeyDictionary({threading.current_thread(): self._outside})
        )
        self._loop_thread = 0
        self._token: Token | None = None  # of the callback that runs
        self._callback: _Host | None = None
        self._is_observed = False
        self.floor: Callable[[], Clock] | None = (
            None  # a thread that begins later comes after nothing
        )
        self._meetings = Meetings()
        tell_handoffs(self)
        tell_meetings(self)

    def current(self) -> _Host:
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
            thread, Unranked(next(self._ids), f"thread {thread.name}")
        )

    def posted(self, callback: Callable[..., object]) -> Token:
        """Take what comes before a callback when it is posted."""
        self._is_observed = True
        owner = getattr(callback, "__self__", None)
        task = owner if isinstance(owner, asyncio.Task) else None
        rank = current_rank()
        if rank is not None and task is not None and task not in self._tasks:
            self._ranks.setdefault(task, rank)  # its first step, posted by who makes it
        name = getattr(callback, "__qualname__", type(callback).__name__)
        return _token(self.current(), task, name)

    def running(self, token: Token) -> None:
        """Let what runs now come behind the token."""
        self._token, self._callback = token, None
        self._loop_thread = threading.get_ident()
        if token.task is not None:
            _follow(self._task(token.task), token)

    def ran(self) -> None:
        """What is outside of the loop goes on only when the loop has stopped: after all of it."""
        assert self._token is not None, "ran() follows running()"
        if self._callback is not None:
            _follow(self._outside, _token(self._callback))
        self._token = self._callback = None

    def joined(self, task: "asyncio.Task[Any]") -> None:
        """Order the running code behind all that the task did."""
        if task in self._tasks:
            _follow(self.current(), _token(self._tasks[task]))

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

    def _running(self) -> _Host:
        assert self._token is not None, "the caller has looked"
        if self._callback is None:
            task = _task() or self._token.task
            if task is not None:
                self._callback = self._task(task)
            else:
                self._callback = self._host(f"callback {self._token.name}", current_rank())
                _follow(self._callback, self._token)
        return self._callback

    def _task(self, task: "asyncio.Task[Any]") -> _Host:
        actor = self._tasks.get(task)
        if actor is None:
            actor = self._host(f"task {task.get_name()!r}", self._ranks.pop(task, None))
            self._tasks[task] = actor
        return actor

    def _host(self, name: str, rank: int | None) -> _Host:
        if rank is None:
            return Unranked(next(self._ids), name)
        return _RankedTask(next(self._ids), f"{name} of rank {rank}", rank)


def _token(actor: _Host, task: "asyncio.Task[Any] | None" = None, name: str = "") -> Token:
    """Say what comes before whatever is posted now."""
    clock = actor.release()
    if isinstance(actor, Ranked):
        return Token(clock, task, name, actor.rank)
    if actor.passed is None:
        return Token(clock, task, name)
    seen = {rank: dict(of_rank) for rank, of_rank in actor.seen.items()}
    return Token(clock, task, name, None, dict(actor.known), seen)


def _follow(actor: _Host, token: Token) -> None:
    """Order an actor behind what was posted; a wake-up by another rank orders nothing."""
    if isinstance(actor, Ranked):
        if token.rank is None:
            actor.learn(token.clock if token.known is None else token.known)
            actor.learn(token.seen.get(actor.rank, {}))
        elif token.rank == actor.rank:
            actor.learn(token.clock)
    elif token.rank is not None:
        actor.see(token.rank, token.clock)
    else:
        actor.learn(token.clock if token.known is None else token.known)
        for rank, of_rank in token.seen.items():
            actor.see(rank, of_rank)


def _task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs on this thread
        return None
