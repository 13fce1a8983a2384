"""What every pipeline of requests shares: who waits, who runs, and who holds which slot."""

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from aio_sched.engine.requests import FinishReason, Request
from aio_sched.errors import SchedulerClosedError, StepAbortedError
from aio_sched.stages import Pipeline, Step
from buffers.slots import SlotAllocator
from streams.hazards import handoff

__all__ = ["HasRequests", "RequestPipeline"]


class HasRequests(Protocol):
    """What a step works on, as far as its requests' ends go."""

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests whose slots the step claims."""


Inputs = TypeVar("Inputs", bound=HasRequests)
Output = TypeVar("Output")


class RequestPipeline(Pipeline[Inputs, Output]):
    """A pipeline whose requests hold a slot each, from their first step to their last.

    A subclass admits, claims and lets go by the verbs below, in its stages; ends by failure,
    abort and stop are dealt with here.

    Args:
        num_slots: requests that hold a slot at once.
        max_len: tokens that a slot has room for.

    Attributes:
        waiting: requests without a slot, oldest first.
        running: requests with a slot, oldest first; ended ones too, while a step that
            uses their slot is on the device.
        takes_constraints: whether its requests may have a ``SamplingParams.constraint``.
        is_empty: set while there is neither, and once the scheduler has stopped.
    """

    takes_constraints = False

    def __init__(self, num_slots: int, max_len: int) -> None:
        self.max_len = max_len
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.is_empty = asyncio.Event()
        self.is_empty.set()
        self._slots = SlotAllocator(num_slots)

    @property
    def num_free_slots(self) -> int:
        """Slots that the next step can give to waiting requests."""
        return self._slots.num_free

    # For the engine ---------------------------------------------------------

    def add(self, request: Request) -> None:
        """Queue a request; the caller wakes the scheduler."""
        self.waiting.append(request)
        self.is_empty.clear()

    def finish(
        self, request: Request, reason: FinishReason, error: BaseException | None = None
    ) -> None:
        """End a request; its slot is free once no step on the device uses it."""
        request.end(reason, error)
        self._let_go(request)

    # For the scheduler ------------------------------------------------------

    @abstractmethod
    async def prepare(self, step: Step) -> Inputs | None:
        """Choose the requests of a step; see ``Pipeline.prepare``."""

    def failed(self, step: Step, inputs: Inputs | None, error: BaseException) -> None:
        """End the requests of the step with its error."""
        if inputs is None:  # prepare has ended those whose table it could not upload
            super().failed(step, inputs, error)
            return
        is_stop = isinstance(error, StepAbortedError)
        reason = FinishReason.ABORTED if is_stop else FinishReason.ERROR
        self._finish_all(inputs.requests, reason, error)

    def closed(self, error: BaseException | None) -> None:
        """End what waits and what runs: no step will come."""
        reason = FinishReason.ABORTED if error is None else FinishReason.ERROR
        error = error or SchedulerClosedError("the engine stopped before the text was complete")
        self._finish_all((*self.waiting, *self.running), reason, error)
        # A device that hangs keeps its slots for ever, but nobody shall wait for that.
        self.is_empty.set()

    # Bookkeeping ------------------------------------------------------------

    def _admit(self) -> None:
        while self.waiting and self.num_free_slots:
            self._take_in(self.waiting.popleft())

    def _take_in(self, request: Request) -> None:
        """Give a slot to a request that has waited; one is free."""
        request.slot = self._slots.take(f"request {request.id}")
        self.running.append(request)

    def _claim(self, step: Step, requests: Sequence[Request]) -> None:
        for request in requests:
            request.num_claims += 1
        # WAR: a next owner's prefill rewrites KV rows and the relay row that this step uses.
        step.when_done(lambda: self._unclaim(requests))

    def _unclaim(self, requests: Sequence[Request]) -> None:
        for request in requests:
            request.num_claims -= 1
            handoff(request)  # the slot may be given back later, by the task that ends the request
            self._let_go(request)

    def _finish_all(
        self, requests: Iterable[Request], reason: FinishReason, error: BaseException
    ) -> None:
        for request in requests:
            self.finish(request, reason, error)

    def _let_go(self, request: Request) -> None:
        """Free the slot of a request that has left and that no step uses."""
        if not self._has_left(request) or request.num_claims:
            return
        if request.slot is not None:
            handoff(request)
            self._slots.give_back(request.slot)
            request.slot = None
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self._tell_if_empty()

    def _has_left(self, request: Request) -> bool:
        """Whether no further step will work on the request here."""
        return request.finish is not None

    def _tell_if_empty(self) -> None:
        if not self.waiting and not self.running:
            self.is_empty.set()
