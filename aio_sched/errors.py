"""What can go wrong with a pipeline and its scheduler; device errors come along."""

from streams.errors import AioSchedError

__all__ = [
    "InboxFullError",
    "PipelineBusyError",
    "SchedulerClosedError",
    "StageTypeError",
    "StepAbortedError",
]


class InboxFullError(AioSchedError, RuntimeError):
    """Too many items wait for the pipeline."""


class SchedulerClosedError(AioSchedError, RuntimeError):
    """The scheduler does not run (not yet, or not any more)."""


class PipelineBusyError(AioSchedError, RuntimeError):
    """Another scheduler runs this pipeline already."""


class StageTypeError(AioSchedError, TypeError):
    """A stage is no coroutine function, or returned what no stage returns."""


class StepAbortedError(AioSchedError, RuntimeError):
    """The scheduler stopped before this step's results were published."""
