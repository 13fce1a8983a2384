"""Who waits for what: the text of a deadlock, and of a livelock."""

import asyncio
import gc
import os
import sysconfig
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import TYPE_CHECKING, Any

from streams.bridge.lane import Waiter

if TYPE_CHECKING:
    from aio_sched.testing.virtual_loop import VirtualLoop

__all__ = ["busy_tasks", "wait_graph"]

_SUSPENDABLE = (CoroutineType, GeneratorType, AsyncGeneratorType)
_REST = "cr_await", "gi_yieldfrom", "ag_await"
_FRAME = "cr_frame", "gi_frame", "ag_frame"


def wait_graph(loop: "VirtualLoop") -> str:
    """Describe what each task, each device and each bridge of ``loop`` waits for."""
    tasks = [_task_line(task) for task in _tasks(loop)]
    waits = [line for lookout in loop.clock.lookouts for line in lookout.describe()]
    sections = {
        "tasks": tasks or ["none"],
        "awaited device events": waits,
        "simulated devices": _devices(),
        "threads, which virtual time does not wait for": _threads(),
    }
    return "\n".join(_section(title, lines) for title, lines in sections.items() if lines)


def busy_tasks(loop: "VirtualLoop", num_runs: dict[str, int], most: int = 5) -> str:
    """Name the tasks that ran most, and where they are."""
    tasks = {task.get_name(): task for task in _tasks(loop)}
    ranking = sorted(num_runs.items(), key=lambda item: -item[1])[:most]
    lines = [
        f"{count} steps: {_task_line(tasks[name]) if name in tasks else f'{name}, which has ended'}"
        for name, count in ranking
    ]
    return _section("ran most lately", lines or ["no task; callbacks only"])


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines)])


def _tasks(loop: "VirtualLoop") -> list[asyncio.Task[Any]]:
    return sorted(asyncio.all_tasks(loop), key=hash)  # their numbers, see VirtualTask


def _task_line(task: asyncio.Task[Any]) -> str:
    frames = list(_frames(task.get_coro()))
    return f"{task.get_name()!r} at {_place(frames)} waits for {_awaited(task, frames)}"


def _frames(awaitable: object) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine and of what it awaits, outermost first."""
    while awaitable is not None:
        frame = next((f for name in _FRAME if (f := getattr(awaitable, name, None))), None)
        if frame is not None:
            yield frame
        awaitable = _awaits(awaitable) or _driven(frame)


def _driven(frame: FrameType | None) -> object:
    """Return the coroutine that a generator of ours drives by hand, as ``resume_within`` does."""
    coro = frame.f_locals.get("coro") if frame is not None else None
    return coro if isinstance(coro, _SUSPENDABLE) else None


def _awaits(awaitable: object) -> object:
    for name in _REST:
        if hasattr(awaitable, name):
            return getattr(awaitable, name)
    # What wraps a coroutine for ``__await__``, or steps an asynchronous generator, tells
    # nobody but the garbage collector.
    return next((r for r in gc.get_referents(awaitable) if isinstance(r, _SUSPENDABLE)), None)


def _place(frames: list[FrameType]) -> str:
    """Say where the user's code is suspended; our own or a library's if there is no other."""
    if not frames:
        return "its start"
    own = [frame for frame in frames if not frame.f_code.co_filename.startswith(_LIBRARIES)]
    frame = (own or frames)[-1]
    path = frame.f_code.co_filename
    here = os.getcwd() + os.sep
    return f"{path.removeprefix(here)}:{frame.f_lineno} in {frame.f_code.co_qualname}"


def _awaited(task: asyncio.Task[Any], frames: list[FrameType]) -> str:
    future = getattr(task, "_fut_waiter", None)
    if future is None:
        return "its next turn"
    if isinstance(future, asyncio.Task):
        return f"task {future.get_name()!r}"
    if children := getattr(future, "_children", None):
        return f"all of {', '.join(_future(child) for child in children if not child.done())}"
    return _holder(frames) or repr(future)


def _holder(frames: list[FrameType]) -> str | None:
    """Find, from the innermost frame on, whose future it is."""
    for frame in reversed(frames):
        names = frame.f_locals
        if isinstance(waiter := names.get("waiter"), Waiter):
            return repr(waiter.event)
        if frame.f_code.co_filename.startswith(_STANDARD):
            if "self" not in names:
                return f"{frame.f_code.co_qualname}()"
            held = names["self"]
            inside = [_future(task) for task in getattr(held, "_tasks", ()) if not task.done()]
            return f"{frame.f_code.co_qualname} of {held!r}" + (
                f" with {', '.join(inside)}" if inside else ""
            )
    return None


def _future(future: Any) -> str:
    return f"task {future.get_name()!r}" if isinstance(future, asyncio.Task) else repr(future)


def _devices() -> list[str]:
    from streams.simulated.progress import stuck_report

    return stuck_report().splitlines()


def _threads() -> list[str]:
    me = threading.current_thread()
    return [t.name for t in threading.enumerate() if t is not me and not t.daemon]


def _folders() -> Iterator[str]:
    for name in ("anyio", "streams", "buffers", "aio_sched"):
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            yield os.path.dirname(spec.origin) + os.sep


_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep
_LIBRARIES = (_STANDARD, *_folders())
