"""What a user writes: a ``Pipeline`` of three stages."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aio_sched.errors import StageTypeError
from aio_sched.inbox import Inbox
from aio_sched.step import HostCopy, Step
from streams.log import get_logger
from streams.stream import Stream

if TYPE_CHECKING:
    from aio_sched.lifecycle import Scheduler

__all__ = ["HostCopy", "Pipeline", "Step"]

Inputs = TypeVar("Inputs")
Output = TypeVar("Output")

log = get_logger("stages")


class Pipeline(ABC, Generic[Inputs, Output]):
    """Three coroutine stages; one scheduler runs them, step after step.

    A pipeline that keeps its requests in an ``Inbox`` in ``self.inbox`` need do nothing
    about failures: what a step has taken from it fails with the step, and what is left
    when the scheduler has stopped.

    Attributes:
        table_copies: copies of every table that prepare writes and forward reads,
            picked by ``step.rotation``; 1 means none is rotated.
        streams: further streams that only this pipeline's stages may use.
    """

    table_copies: int = 1
    streams: tuple[Stream, ...] = ()
    _scheduler: "Scheduler | None" = None

    def wake(self) -> None:
        """Tell the scheduler that runs this pipeline that prepare may find work now.

        Without a scheduler it does nothing: one that starts asks prepare anyway.

        Raises:
            SchedulerClosedError: the scheduler takes no more work.
        """
        if self._scheduler is not None:
            self._scheduler.wake()

    @abstractmethod
    async def prepare(self, step: Step) -> Inputs | None:
        """Decide what the next step works on, and put it on the schedule stream.

        Runs while earlier steps are on the device. May await anything.

        Returns:
            The step's inputs, or None: there is nothing to do until
            ``scheduler.wake()`` or until a step in flight has been published. Inputs
            with an attribute ``overlap`` that is False run alone.
        """

    @abstractmethod
    async def forward(self, step: Step, inputs: Inputs) -> Output:
        """Enqueue the model on the forward stream; never wait for the device.

        Returns:
            What publish needs, ``step.copy_to_host(...)`` as a rule.
        """

    @abstractmethod
    async def publish(self, step: Step, inputs: Inputs, output: Output) -> None:
        """Await the results and deliver them; runs behind, in step order.

        Enqueues nothing on the device.
        """

    def failed(self, step: Step, inputs: Inputs | None, error: BaseException) -> None:
        """Fail the requests of one step; called once instead of, or after, publish.

        Fails what the step has taken from ``inbox``; override it for other requests.

        Args:
            step: the step that failed.
            inputs: what prepare returned, None if prepare failed.
            error: what a stage or a launch raised, ``StepAbortedError`` if the
                scheduler stopped first.
        """
        log.error("step_failed", step=step.index, error=repr(error))
        if (inbox := _inbox_of(self)) is not None:
            inbox.fail(step, error)

    def claimed(self) -> None:
        """Get ready for a scheduler, the first or a later one; scheduler only."""
        if (inbox := _inbox_of(self)) is not None:
            inbox.reopen()

    def idled(self, step: Step) -> None:
        """Look after a step whose prepare returned None; scheduler only."""
        if (inbox := _inbox_of(self)) is not None:
            inbox.fail(
                step,
                StageTypeError(
                    "prepare took items from the inbox and returned None; return inputs for "
                    "them, or answer or fail them"
                ),
            )

    def closed(self, error: BaseException | None) -> None:
        """End the requests that no step took; called once, when no step will come.

        Closes ``inbox``; override it for other requests.

        Args:
            error: what stopped the scheduler, None for an orderly stop.
        """
        if (inbox := _inbox_of(self)) is not None:
            inbox.close(error)


def _inbox_of(pipeline: Pipeline[Any, Any]) -> Inbox[Any, Any] | None:
    inbox = getattr(pipeline, "inbox", None)
    return inbox if isinstance(inbox, Inbox) else None
