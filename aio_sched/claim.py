"""Which scheduler runs a pipeline, and whether the pipeline can be run at all."""

import inspect
import threading
from typing import TYPE_CHECKING, Any

from aio_sched.errors import PipelineBusyError, StageTypeError
from aio_sched.stages import Pipeline

if TYPE_CHECKING:
    from aio_sched.lifecycle import Scheduler

__all__ = ["check_stages", "claim"]


def check_stages(pipeline: Pipeline[Any, Any]) -> None:
    """Refuse what cannot be run.

    Raises:
        StageTypeError: no ``Pipeline``, or a stage that is no coroutine function.
    """
    if not isinstance(pipeline, Pipeline):
        raise StageTypeError(f"{pipeline!r} is no Pipeline; derive from aio_sched.Pipeline")
    for stage in ("prepare", "forward", "publish"):
        if not inspect.iscoroutinefunction(getattr(pipeline, stage)):
            raise StageTypeError(
                f"{type(pipeline).__name__}.{stage} is no coroutine function; write 'async def'"
            )


def claim(pipeline: Pipeline[Any, Any], scheduler: "Scheduler") -> None:
    """Make ``scheduler`` the one that runs ``pipeline``.

    Raises:
        PipelineBusyError: another one does.
    """
    with _claiming:
        if pipeline._scheduler is not None:
            raise PipelineBusyError(
                f"{pipeline!r} is run by {pipeline._scheduler!r} already; "
                "make a pipeline for each scheduler"
            )
        pipeline._scheduler = scheduler
    pipeline.claimed()


_claiming = threading.Lock()  # guards Pipeline._scheduler against loops of other threads
