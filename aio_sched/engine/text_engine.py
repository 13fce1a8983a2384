"""The front of every engine: prompts in, token streams out, any number at a time."""

import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack

from aio_sched.config import SchedulerOptions
from aio_sched.engine.constrained.guide import Guide
from aio_sched.engine.errors import (
    ConstraintError,
    EngineBusyError,
    PromptError,
    RequestAbortedError,
    RequestBusyError,
    RequestFailedError,
)
from aio_sched.engine.request_pipeline import RequestPipeline
from aio_sched.engine.requests import FinishReason, Request, SamplingParams
from aio_sched.lifecycle import Scheduler
from aio_sched.loop import OverlapScheduler, SequentialScheduler
from streams.device import Device

__all__ = ["TextEngine"]

P = TypeVar("P", bound=RequestPipeline[Any, Any])


class TextEngine(Generic[P]):
    """Continues prompts by a pipeline of requests, in continuous batches.

    Requests join and leave the batch between steps. Use it in ``async with``; leaving
    the block ends what is still running as aborted.

    Args:
        pipeline: what continues them; its tokens are bytes.
        device: the open device of the pipeline; it stays open.
        max_waiting: requests that may wait for a slot; one more is refused.
        overlap: False runs the same pipeline one step at a time.
        options: the scheduler's, ``depth=3`` for one; see ``OverlapScheduler``. Engines
            that share a device each need their own ``name``.

    Raises:
        ValueError: ``max_waiting`` is negative.
    """

    def __init__(
        self,
        pipeline: P,
        device: Device,
        *,
        max_waiting: int = 1024,
        overlap: bool = True,
        **options: Unpack[SchedulerOptions],
    ) -> None:
        if max_waiting < 0:
            raise ValueError(f"max_waiting={max_waiting} is negative; 0 lets no request wait")
        self.max_waiting = max_waiting
        self.pipeline = pipeline
        kind = OverlapScheduler if overlap else SequentialScheduler
        self.scheduler: Scheduler = kind(pipeline, device, **options)
        self._ids = itertools.count()

    async def __aenter__(self) -> Self:
        await self.scheduler.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.scheduler.__aexit__(exc_type, exc, traceback)

    def submit(self, prompt: str | bytes, params: SamplingParams | None = None) -> Request:
        """Queue a prompt; read its tokens with ``stream``.

        A request that nobody reads runs to its end all the same.

        Raises:
            TypeError: the prompt is neither text nor bytes.
            PromptError: empty, or too long for the model's context, or with byte 0.
            ConstraintError: the constraint cannot be understood, no text meets it, or this
                engine knows no constraints.
            EngineBusyError: ``max_waiting`` requests wait already.
            SchedulerClosedError: the engine does not run.
        """
        params = SamplingParams() if params is None else params
        encoded = _encode(prompt)
        _check_prompt(encoded, params, self.pipeline.max_len)
        guide = self._guide(params)
        self.scheduler.wake()
        if len(self.pipeline.waiting) >= self.max_waiting + self.pipeline.num_free_slots:
            raise EngineBusyError(
                f"{self.max_waiting} requests wait already; retry later or raise max_waiting"
            )
        request = Request(next(self._ids), encoded, params, guide=guide)
        if guide is not None and guide.must_end:
            request.end(FinishReason.END_OF_TEXT)
        else:
            self.pipeline.add(request)
        return request

    async def stream(self, request: Request) -> AsyncGenerator[int, None]:
        """Give the tokens (bytes) of a submitted request as they come.

        Closing the generator, or cancelling the reader, aborts the request; its slot
        is free for another as soon as the steps that use it have left the device. A
        loop that is left with ``break`` closes it when it is garbage; to have it closed
        at once, use ``contextlib.aclosing``.

        Raises:
            RequestFailedError: a step of the request failed; chained to the cause.
            RequestAbortedError: the request was aborted, or the engine stopped, which
                then is the cause.
            RequestBusyError: another reader is at it.
        """
        if request.is_read:
            raise RequestBusyError(
                f"request {request.id} has a reader already; share what that one reads"
            )
        request.is_read = True
        try:
            while True:
                while request.unread:
                    yield request.unread.popleft()
                if request.finish is not None:
                    break
                await request.news.wait()
        finally:
            request.is_read = False
            self.abort(request)
        _raise_unless_complete(request)

    async def generate(
        self, prompt: str | bytes, params: SamplingParams | None = None
    ) -> AsyncGenerator[int, None]:
        """Submit a prompt and give its tokens; see ``submit`` and ``stream``.

        Submits, and raises what that raises, when the first token is asked for.
        """
        async with aclosing(self.stream(self.submit(prompt, params))) as tokens:
            async for token in tokens:
                yield token

    async def complete(self, prompt: str | bytes, params: SamplingParams | None = None) -> str:
        """Submit a prompt and return the whole continuation; see ``submit`` and ``stream``."""
        tokens = [token async for token in self.generate(prompt, params)]
        return bytes(tokens).decode(errors="replace")

    def abort(self, request: Request) -> None:
        """End a request now; one that has ended already stays as it is.

        What was published before can still be read. Its slot is free for another as
        soon as the steps that use it have left the device.
        """
        if request.finish is None:
            self.pipeline.finish(request, FinishReason.ABORTED)

    async def drained(self) -> None:
        """Wait until every request has ended and given its slot back, or the engine stopped."""
        await self.pipeline.is_empty.wait()

    def _guide(self, params: SamplingParams) -> Guide | None:
        if params.constraint is None:
            return None
        if not self.pipeline.takes_constraints:
            raise ConstraintError(
                f"{type(self.pipeline).__name__} cannot write under a constraint; leave the "
                "constraint out, or submit to an Engine that was made without capture_experts"
            )
        return Guide(params.constraint)


def _encode(prompt: str | bytes) -> bytes:
    if not isinstance(prompt, str | bytes):
        raise TypeError(f"the prompt is a {type(prompt).__name__}; give str or bytes")
    if isinstance(prompt, bytes):
        return prompt
    try:
        return prompt.encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"the prompt is no valid text, correct it: {error}") from error


def _check_prompt(prompt: bytes, params: SamplingParams, max_len: int) -> None:
    if not prompt:
        raise PromptError("the prompt is empty; give at least one character")
    if 0 in prompt:
        raise PromptError("the prompt has a byte 0, which ends a text; remove it")
    if len(prompt) + params.max_tokens > max_len:
        raise PromptError(
            f"the prompt's {len(prompt)} tokens and max_tokens={params.max_tokens} exceed "
            f"the model's context of {max_len}; shorten the prompt or lower max_tokens"
        )


def _raise_unless_complete(request: Request) -> None:
    if request.finish is FinishReason.ERROR:
        raise RequestFailedError(
            f"request {request.id} failed after {len(request.output)} tokens: {request.error!r}"
        ) from request.error
    if request.finish is FinishReason.ABORTED:
        raise RequestAbortedError(
            f"request {request.id} was aborted after {len(request.output)} tokens"
            + (f": {request.error}" if request.error else "")
        ) from request.error
