"""Calls that may block for good, away from the loop's thread."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, TypeVarTuple, Unpack

__all__ = ["start_thread"]

T = TypeVar("T")
Args = TypeVarTuple("Args")


def start_thread(name: str, fn: Callable[[Unpack[Args]], T], *args: *Args) -> "asyncio.Future[T]":
    """Call ``fn`` in a thread of its own; the future is for who wants to know how it ended.

    A daemon thread: one that asks a stopped process over a socket cannot be interrupted, and
    must not keep this process from ending. Cancelling the future leaves the thread alone.

    Args:
        name: of the thread, for who looks at a dump.
        fn: blocks outside of Python only, in torch's store or a process group.
        args: for ``fn``.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def work() -> None:
        try:
            settle = partial(_settle, outcome, fn(*args), None)
        except BaseException as error:  # who awaits the future gets it
            settle = partial(_settle, outcome, None, error)
        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:  # nobody waits any more in a loop that is closed
            if not loop.is_closed():
                raise

    threading.Thread(target=work, name=f"aio-sched-{name}", daemon=True).start()
    return outcome


def _settle(outcome: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if outcome.done():
        return
    if error is None:
        outcome.set_result(result)
    else:
        outcome.set_exception(error)
        outcome.exception()  # seen: not everybody wants to know
