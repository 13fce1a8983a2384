"""Running one stage: its stream current, its step named, its time taken."""

import asyncio
import inspect
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from aio_sched.errors import StageTypeError, StepAbortedError
from aio_sched.monitor import Monitors
from streams.clock import perf_s
from streams.current import WorkTag, resume_within, use_stream, work_tag
from streams.guard import HostBlockGuard
from streams.log import log_stage, log_step
from streams.stream import Stream

__all__ = ["run_stage"]


async def run_stage(
    index: int,
    stage: str,
    coro: Coroutine[Any, Any, Any],
    stream: Stream | None,
    monitors: Monitors,
    guard: HostBlockGuard,
) -> Any:
    """Run one stage of one step, and return what it returned.

    Raises:
        StageTypeError: it returned a coroutine.
        StepAbortedError: it awaited something that somebody cancelled. That ends this
            step; it is no cancellation of the scheduler.
        Exception: what it raised.
    """
    former = work_tag.set(WorkTag(index, stage))
    in_logs = log_step.set(index), log_stage.set(stage)
    start_s = perf_s()
    failed = True
    try:
        watched = guard.run(coro) if guard.watch_tensors else coro
        result = await resume_within(_Runs(index, stage, stream, monitors), watched)
        failed = False
    except asyncio.CancelledError as error:
        if _is_being_cancelled():
            raise
        raise StepAbortedError(
            f"{stage} of step {index} awaited something that was cancelled; catch the "
            "cancellation in the stage if the step can go on without it"
        ) from error
    finally:
        log_stage.reset(in_logs[1])
        log_step.reset(in_logs[0])
        work_tag.reset(former)
        monitors.stage(index, stage, start_s, perf_s(), failed)
    if inspect.iscoroutine(result):
        result.close()
        raise StageTypeError(f"{stage} returned a coroutine; await it in the stage")
    return result


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Runs:
    """What surrounds a stage whenever it runs: its stream is current, a clock goes."""

    __slots__ = ("_index", "_monitors", "_stage", "_start_s", "_use")

    def __init__(self, index: int, stage: str, stream: Stream | None, monitors: Monitors) -> None:
        self._index, self._stage = index, stage
        self._use = None if stream is None else use_stream(stream)
        self._monitors = monitors

    def __call__(self) -> Self:
        return self

    def __enter__(self) -> None:
        self._start_s = perf_s()
        if self._use is not None:
            self._use.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._use is not None:
            self._use.__exit__(exc_type, exc, traceback)
        self._monitors.ran(self._index, self._stage, self._start_s, perf_s())
