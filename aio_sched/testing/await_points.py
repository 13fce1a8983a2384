"""Cutting a run short at its k-th await point."""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import wraps
from types import coroutine
from typing import Any

from aio_sched.stages import Pipeline

__all__ = ["AwaitPoints"]

_STAGES = ("prepare", "forward", "publish")


class AwaitPoints:
    """Counts where watched coroutines are suspended, and calls ``cancel`` at one of them.

    Works on every event loop: it goes by the coroutines and not by the loop.

    Args:
        cancel_at: the point, from 0; None for none.

    Attributes:
        num_passed: points passed so far.
        cancel: called once, when the point is reached.
    """

    def __init__(self, cancel_at: int | None = None) -> None:
        self.num_passed = 0
        self.cancel: Callable[[], object] = _nothing
        self._cancel_at = cancel_at

    def watch(self, pipeline: Pipeline[Any, Any]) -> None:
        """Count the await points of a pipeline's stages."""
        for name in _STAGES:
            setattr(pipeline, name, self._watched(getattr(pipeline, name)))

    def counted(self, work: Awaitable[Any]) -> Any:
        """Return a coroutine that does ``work`` and counts its await points."""
        return self._count(work if isinstance(work, Coroutine) else work.__await__())

    def _watched(self, stage: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(stage)
        async def watched(*args: Any) -> Any:
            return await self.counted(stage(*args))

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
                self._pass()
                try:
                    value, resume = (yield pending), coro.send
                except BaseException as error:  # whatever the loop throws in is the coroutine's
                    value, resume = error, coro.throw
        finally:
            value = resume = None  # type: ignore[assignment]  # an error must not keep its frame
            coro.close()

    def _pass(self) -> None:
        if self.num_passed == self._cancel_at:
            self.cancel()
        self.num_passed += 1


def _nothing() -> None:
    """Nobody is to be cancelled."""
