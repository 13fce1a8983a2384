"""What a launch raised, for whoever asks for its value."""

import inspect
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn

__all__ = ["Failure", "drop_locals"]

_RESUMABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


@dataclass(slots=True)
class Failure:
    """What a launch raised, and whether anybody has been told.

    Attributes:
        number: the launch's place on its stream.
        label: names the launch.
        error: what its function raised, or that of a launch whose value it takes.
        traceback: the lines of the function; no frame of the device's or a waiter's.
        was_seen: whether a waiter or a dependent launch got it.
    """

    number: int
    label: str
    error: BaseException
    traceback: TracebackType | None = None
    was_seen: bool = False

    def raise_again(self) -> NoReturn:
        """Raise the error at one who asked for the launch's value."""
        self.was_seen = True
        # Each raise adds the frames that it passes. Without a fresh start they would pile up
        # on the one error, and keep alive what all its former waiters had in hand.
        raise self.error.with_traceback(self.traceback)


def drop_locals(error: BaseException) -> None:
    """Keep the lines of an error's tracebacks, let go of what its functions held.

    An error may be kept for long, and with it, through the frames, the memory of the
    call that failed: after running out of memory, exactly what must be freed.
    """
    for linked in _chain(error):
        for frame, _ in traceback.walk_tb(linked.__traceback__):
            # A coroutine may be suspended in a handler of this very error; before
            # Python 3.13 clear() would end it.
            if not frame.f_code.co_flags & _RESUMABLE:
                with suppress(RuntimeError):  # still running: one of ours, not the function's
                    frame.clear()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Give an error and all that caused it or was being handled when it was raised."""
    links, seen = [error], set[int]()
    while links:
        link = links.pop()
        if id(link) not in seen:
            seen.add(id(link))
            yield link
            links.extend(e for e in (link.__cause__, link.__context__) if e is not None)
