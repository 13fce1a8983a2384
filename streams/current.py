"""Which device stream is current, and a coroutine that takes its own along.

torch keeps the current stream per *thread*, and every task of an event loop
shares one thread. A stream context held across an ``await`` therefore leaks into
whatever the loop runs next. ``on_stream`` drives a coroutine by hand instead: the
stream is made current at each resume and the former one restored at each suspend.
"""

import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType, coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from streams.stream import Stream

T = TypeVar("T")

__all__ = ["WorkTag", "current_stream", "on_stream", "resume_within", "use_stream", "work_tag"]


class WorkTag(NamedTuple):
    """On whose behalf device work is issued; names it in errors and traces."""

    step: int
    stage: str

    def __str__(self) -> str:
        return f"{self.stage}#{self.step}"


work_tag: contextvars.ContextVar[WorkTag | None] = contextvars.ContextVar(
    "aio_sched_work_tag", default=None
)


class _Current(threading.local):
    stream: "Stream | None" = None


_current = _Current()


def current_stream() -> "Stream | None":
    """Return the stream that is current on this thread, or None.

    Inside a stage it is the stage's own stream; inside the function of a launch
    it is the stream that the launch was put on.
    """
    return _current.stream


def use_stream(stream: "Stream") -> AbstractContextManager["Stream"]:
    """Make ``stream`` current on this thread for a block that does not await.

    Enqueues nothing. On an accelerator torch's own current stream follows, so
    that plain torch calls in the block go to ``stream`` too. What this returns can be
    entered again after it was left.
    """
    return _Use(stream)


class _Use:
    """A plain class: a generator would cost each resume of each stage a microsecond."""

    __slots__ = ("_former", "_native", "_stream")

    def __init__(self, stream: "Stream") -> None:
        self._stream = stream

    def __enter__(self) -> "Stream":
        self._native = self._stream._enter_native()
        self._former, _current.stream = _current.stream, self._stream
        return self._stream

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _current.stream = self._former
        self._stream._exit_native(self._native)


def on_stream(stream: "Stream", coro: Coroutine[Any, Any, T]) -> Awaitable[T]:
    """Run ``coro`` with ``stream`` current whenever it runs, and only then.

    Args:
        stream: the stream to make current at each resume.
        coro: the coroutine to drive; cancellation and errors pass through.

    Returns:
        What ``coro`` returns.
    """
    return resume_within(partial(use_stream, stream), coro)


@coroutine
def resume_within(
    enter: Callable[[], AbstractContextManager[object]], coro: Coroutine[Any, Any, T]
) -> Generator[Any, Any, T]:
    """Run ``coro`` inside a context that is entered at each resume, left at each suspend.

    For what torch keeps per thread: nothing stays entered while other tasks run.

    Args:
        enter: gives the context; called once per resume.
        coro: the coroutine to drive; cancellation and errors pass through.

    Returns:
        What ``coro`` returns.
    """
    resume: Any = coro.send
    value: Any = None
    try:
        while True:
            with enter():
                try:
                    pending = resume(value)
                except StopIteration as finished:
                    return finished.value  # type: ignore[no-any-return]  # StopIteration.value is Any
            try:
                value, resume = (yield pending), coro.send
            except BaseException as error:  # whatever the loop throws in belongs to coro
                value, resume = error, coro.throw
    finally:
        # Else an error and this frame would keep each other, and what the stage held, alive.
        value = resume = None
        coro.close()
