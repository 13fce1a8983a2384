"""The host-block guard: on the event loop's thread, waiting for a device is an error.

A call that blocks until the device is done stops every other task of the loop, for as
long as a forward takes. The guard makes such calls visible, and impossible in strict
mode. It follows the task that it watches, through a context variable: other tasks of
the loop, and threads, stay unaffected, also ``asyncio.to_thread``, which copies the
context.

It sees the blocking verbs of this library, torch's ``synchronize`` functions, and on
request (``watch_tensors``) tensor calls such as ``.item()``; ``blocking_calls.py`` says
what escapes. ``aio_sched.LoopLagMonitor`` sees the time that anything takes.

``torch.cuda.set_sync_debug_mode`` is not used. It is one switch for the process: waits
that other threads make on purpose would warn too, the warnings' filters and hook of the
application would have to be replaced to tell them apart, and waits for events are not
seen at all. In a run without such threads, switch it on beside the guard.
"""

import asyncio
import contextvars
import os
import sys
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import torch

from streams.current import resume_within
from streams.errors import HostBlockedError
from streams.guard.blocking_calls import PatchedVerbs, TensorWatch
from streams.log import get_logger

__all__ = ["CallSite", "HostBlockGuard", "allow_blocking", "check_blocking"]

T = TypeVar("T")

log = get_logger("guard")


class CallSite(NamedTuple):
    """The line of the user's code that made a call."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class HostBlockGuard:
    """Counts blocking device calls of the tasks that it watches; strict, it refuses them.

    Where guards are nested, every one counts, and one strict guard is enough to refuse.
    The first call from each line is logged as a warning.

    Args:
        strict: raise ``HostBlockedError`` before the call blocks.
        watch_tensors: let ``run`` watch tensor calls too, which costs one or two
            microseconds for each call of torch; None does so in strict mode only.

    Attributes:
        calls: blocking calls so far, by the line that made them, refused ones included.
        allowed: calls under ``allow_blocking``, by its reason.
    """

    def __init__(self, *, strict: bool = False, watch_tensors: bool | None = None) -> None:
        self.strict = strict
        self.watch_tensors = strict if watch_tensors is None else watch_tensors
        self.calls: Counter[CallSite] = Counter()
        self.allowed: Counter[str] = Counter()

    def __repr__(self) -> str:
        mode = "strict" if self.strict else "counting"
        return f"<HostBlockGuard {mode}: {self.num_blocked} blocking calls>"

    @property
    def num_blocked(self) -> int:
        """Blocking calls so far that nobody allowed."""
        return self.calls.total()

    @contextmanager
    def watch(self) -> Iterator["HostBlockGuard"]:
        """Watch this task, and those that it starts, for the length of the block.

        The block may await. Calls are the watched tasks' only on the thread that
        entered it. Tensor calls are not seen; ``run`` sees them.
        """
        with _verbs, _opened(_Watched(self)):
            yield self

    async def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run ``coro`` watched, tensor calls included if ``watch_tensors`` is set.

        Tasks that it starts are watched for all but tensor calls.

        Returns:
            What ``coro`` returns; its errors and cancellation pass through.

        Raises:
            HostBlockedError: in strict mode, at the call that would block.
            TorchModeOpenError: tensors are watched, and ``coro`` suspended inside a
                torch mode of its own.
        """
        with self.watch():
            if not self.watch_tensors:
                return await coro
            watch = TensorWatch(partial(_check, only=self))
            return await resume_within(lambda: watch, coro)

    def note(self, what: str, site: CallSite) -> None:
        """Count one blocking call, and log the first one of its line."""
        if site not in self.calls:
            log.warning("host_blocked", call=what, site=str(site), refused=self.strict)
        self.calls[site] += 1


@contextmanager
def allow_blocking(reason: str) -> Iterator[None]:
    """Let this task make blocking device calls for the length of the block.

    For a wait that is meant: warming up, a bootstrap, a shutdown. The guards around
    the block count the calls under the reason. Tasks that the block starts get no
    permission, and a guard that is entered inside the block is in force.

    Args:
        reason: why the loop may stand still here.

    Raises:
        ValueError: the reason is empty.
    """
    if not reason.strip():
        raise ValueError(f"reason={reason!r} is empty; say why the event loop may stand still")
    with _opened(_Permission(reason)):
        yield


def check_blocking(what: str) -> None:
    """Tell the guards of this task that the calling thread is about to wait for a device.

    Args:
        what: names the call, ``"Event.synchronize() on 'copy_done'"``.

    Raises:
        HostBlockedError: a strict guard watches this task, on this thread.
    """
    if _frames.get():
        _check(what)


class _Watched:
    """An open ``watch`` block; contexts that were copied inside it outlive it."""

    def __init__(self, guard: HostBlockGuard) -> None:
        self.guard = guard
        self.is_open = True
        self._thread = threading.get_ident()

    def is_in_force(self) -> bool:
        """Whether the block is open, and the caller on the thread that opened it."""
        return self.is_open and threading.get_ident() == self._thread


class _Permission:
    """An open ``allow_blocking`` block."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.is_open = True
        self._task = _task()

    def is_in_force(self) -> bool:
        """Whether the block is open, and the caller in the task that opened it."""
        return self.is_open and _task() is self._task


_Frame = _Watched | _Permission
_frames: contextvars.ContextVar[tuple[_Frame, ...]] = contextvars.ContextVar(
    "aio_sched_guard_frames", default=()
)


@contextmanager
def _opened(frame: _Frame) -> Iterator[None]:
    around = (outer for outer in _frames.get() if outer.is_open)
    token = _frames.set((*around, frame))
    try:
        yield
    finally:
        frame.is_open = False
        _frames.reset(token)


def _guards_in_force() -> Iterator[tuple[HostBlockGuard, str | None]]:
    """Yield each guard of the caller, innermost first, and what allows its call if anything."""
    reason: str | None = None
    seen: list[HostBlockGuard] = []
    for frame in reversed(_frames.get()):
        if not frame.is_in_force():
            continue
        if isinstance(frame, _Permission):
            reason = reason or frame.reason
        elif frame.guard not in seen:
            seen.append(frame.guard)
            yield frame.guard, reason


def _check(what: str, only: HostBlockGuard | None = None) -> None:
    """Count a blocking call with every guard in force, or with one, and then refuse it."""
    refused_at: CallSite | None = None
    for guard, reason in _guards_in_force():
        if only not in (None, guard):
            continue
        if reason is not None:
            guard.allowed[reason] += 1
            continue
        site = _call_site()
        guard.note(what, site)
        refused_at = site if guard.strict else refused_at
    if refused_at is not None:
        raise HostBlockedError(
            f"{what} at {refused_at} would block the event loop's thread; await the event, "
            "the launch or its copy to the host instead, or allow_blocking(reason)"
        )


def _call_site() -> CallSite:
    """Find the user's line: the innermost frame that is neither torch's nor ours.

    If one of our own coroutines blocks there is none below the event loop; then it is
    the line of ours.
    """
    frame: FrameType | None = sys._getframe(1)
    ours: CallSite | None = None
    while frame is not None and not frame.f_code.co_filename.startswith(_ASYNCIO):
        file = frame.f_code.co_filename
        site = CallSite(file, frame.f_lineno)
        if not file.startswith(_LIBRARY):
            return site
        if ours is None and not file.startswith(_MACHINERY):
            ours = site
        frame = frame.f_back
    return ours or CallSite("unknown", 0)


def _folder(path: str | None) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(path or "")), "")


_GUARD = _folder(__file__)
_ROOT = os.path.dirname(os.path.dirname(_GUARD.rstrip(os.sep)))
_ASYNCIO = _folder(asyncio.__file__)
_MACHINERY = (
    _GUARD,
    _folder(torch.__file__),
)
_LIBRARY = (
    *(os.path.join(_ROOT, package, "") for package in ("streams", "buffers", "aio_sched")),
    *_MACHINERY,
)


def _task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs on this thread
        return None


_verbs = PatchedVerbs(check_blocking)
