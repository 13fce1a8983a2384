"""Cutting a run short at its k-th await point, or when a stage of a step begins."""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import wraps
from types import coroutine
from typing import Any, NamedTuple

from aio_sched.stages import Pipeline, Step

__all__ = ["AwaitPoints", "StagePoint"]

_STAGES = ("prepare", "forward", "publish")


class StagePoint(NamedTuple):
    """Where a stage of a step begins, for the first time."""

    stage: str
    step: int


class AwaitPoints:
    """Counts where watched coroutines are suspended, and calls ``cancel`` at one of them.

    Works on every event loop: it goes by the coroutines and not by the loop.

    Args:
        cancel_at: the await point, from 0, or the beginning of a stage; None for none.

    Attributes:
        num_passed: await points passed so far.
        is_reached: whether ``cancel`` was called.
        cancel: called once, when the point is reached.
    """

    def __init__(self, cancel_at: int | StagePoint | None = None) -> None:
        self.num_passed = 0
        self.is_reached = False
        self.cancel: Callable[[], object] = _nothing
        self._cancel_at = cancel_at

    def watch(self, pipeline: Pipeline[Any, Any]) -> None:
        """Count the await points of a pipeline's stages."""
        for name in _STAGES:
            setattr(pipeline, name, self._watched(name, getattr(pipeline, name)))

    def counted(self, work: Awaitable[Any]) -> Any:
        """Return a coroutine that does ``work`` and counts its await points."""
        return self._count(work if isinstance(work, Coroutine) else work.__await__())

    def _watched(self, name: str, stage: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(stage)
        async def watched(step: Step, *args: Any) -> Any:
            self._reach(StagePoint(name, step.index))
            return await self.counted(stage(step, *args))

        return watched

    @coroutine
    def _count(
        self, coro: Coroutine[Any, Any, Any] | Generator[Any, Any, Any]
    ) -> Generator[Any, Any, Any]:
        resume: Callable[[Any], Any] = coro.send
        value: Any = None
        try:
            while True:
                try:
                    pending = resume(value)
                except StopIteration as finished:
                    return finished.value
                self._reach(self.num_passed)
                self.num_passed += 1
                try:
                    value, resume = (yield pending), coro.send
                except BaseException as error:  # whatever the loop throws in is the coroutine's
                    value, resume = error, coro.throw
        finally:
            value = resume = None  # type: ignore[assignment]  # an error must not keep its frame
            coro.close()

    def _reach(self, point: int | StagePoint) -> None:
        if point == self._cancel_at and not self.is_reached:
            self.is_reached = True
            self.cancel()


def _nothing() -> None:
    """Nobody is to be cancelled."""
