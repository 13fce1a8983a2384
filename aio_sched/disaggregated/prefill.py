"""The side that reads prompts: it samples each request's first token and hands its rows over."""

from collections import deque
from contextlib import suppress

from torch import Tensor

from aio_sched.disaggregated.credits import Credits
from aio_sched.disaggregated.errors import LinkProtocolError, RemoteRequestError
from aio_sched.disaggregated.messages import Abort, Ended, HandOver, Ping, Pong, Progress
from aio_sched.engine.admission import Limits, Plan, plan_step
from aio_sched.engine.model import EOS, ByteTransformer
from aio_sched.engine.pipeline import Batch, GenerationPipeline
from aio_sched.engine.requests import FinishReason, Request
from aio_sched.errors import SchedulerClosedError
from aio_sched.stages import HostCopy, Step
from aio_sched.wakeup import Wakeup
from streams.device import Device

__all__ = ["PrefillPipeline"]


class PrefillPipeline(GenerationPipeline):
    """Reads prompts chunk by chunk, and hands over what a decode side needs to go on.

    A request waits, then runs here, and is then away until the decode side has ended it. It
    holds a place of that side from its first step on, so that none is prefilled in vain. Its
    slot here is free once the copy of its rows has left the device.

    Args:
        model: on ``device``; the decode side has the same.
        device: where the KV cache is allocated, which blocks.
        limits: sizes of a step; ``max_running`` requests hold a slot at once.
        depth: steps that the scheduler may have in flight.

    Attributes:
        credits: places on the decode side; none until it is granted some.
        outbox: what is to be sent, oldest first; ``credits`` bounds the number of requests.
        news: set when there is something in the outbox.
        sent_away: set when a request was handed over.
        away: requests that were handed over and hold a place, by id; aborted ones too, until
            the decode side says that they have ended.
        lost: why nothing can be handed over any more.

    Raises:
        ValueError: as from ``GenerationPipeline``.
    """

    def __init__(
        self, model: ByteTransformer, device: Device, limits: Limits, *, depth: int = 2
    ) -> None:
        super().__init__(model, device, limits, depth=depth)
        self.credits = Credits()
        self.outbox: deque[HandOver | Abort | Ping | Pong] = deque()
        self.news = Wakeup()
        self.sent_away = Wakeup()
        self.away: dict[int, Request] = {}
        self.lost: BaseException | None = None

    @property
    def num_free_slots(self) -> int:
        """Requests that the next step can take in: each needs a slot here and a place there."""
        return min(super().num_free_slots, self.credits.num_left)

    # Stages -----------------------------------------------------------------

    async def forward(self, step: Step, inputs: Batch) -> HostCopy:
        """Enqueue the prefill, and the copies of tokens and of finished prompts' rows."""
        step.shared_read_done()
        rows = self._rows(request.slot for request in inputs.requests)
        tokens = step.launch(self._run_prefill, inputs.table, reads=rows, writes=rows)
        # RAW: the copy reads KV rows that this prefill writes on the forward stream.
        # WAR: a next owner's prefill rewrites rows that the copy reads; copy_done ends the claim.
        return step.copy_to_host((tokens, self._finished_rows(inputs)), reused=False)

    async def publish(self, step: Step, inputs: Batch, output: HostCopy) -> None:
        """Hand each request its first token, and over what goes on."""
        tokens, rows = await output
        for request, token, is_sampled, cached in zip(
            inputs.requests, tokens.tolist(), inputs.samples, rows, strict=False
        ):
            if is_sampled:
                request.take(token, EOS)
                if request.finish is None:
                    self._hand_over(request, token, *cached)
                self._let_go(request)

    def _finished_rows(self, inputs: Batch) -> tuple[tuple[Tensor, ...], ...]:
        """Return keys and values ``[tokens, layers, heads, head_dim]``, views of the cache."""
        return tuple(
            self._cached(request) if is_sampled and request.params.max_tokens > 1 else ()
            for request, is_sampled in zip(inputs.requests, inputs.samples, strict=True)
        )

    def _cached(self, request: Request) -> tuple[Tensor, ...]:
        assert request.slot is not None, "a scheduled request has a slot"
        row, length = request.slot.index, len(request.prompt)
        both = self._cache.keys, self._cache.values
        return tuple(memory[:, row, :, :length].permute(2, 0, 1, 3) for memory in both)

    # For the engine ---------------------------------------------------------

    def finish(
        self, request: Request, reason: FinishReason, error: BaseException | None = None
    ) -> None:
        """End a request; one that is away is given up there as well."""
        if request.finish is None and request.id in self.away:
            self._call_back(request.id)
        super().finish(request, reason, error)

    def closed(self, error: BaseException | None) -> None:
        """End what waits, what runs and what is away, which the end of the link tells there."""
        reason = FinishReason.ABORTED if error is None else FinishReason.ERROR
        cause = error or SchedulerClosedError("the engine stopped before the text was complete")
        self._finish_all(self._fetch_back(), reason, cause)
        super().closed(error)

    # For the link -----------------------------------------------------------

    def granted(self, places: int) -> None:
        """Take notice of the places that the decode side has; the caller wakes the scheduler."""
        self.credits.grant(places)

    def progressed(self, progress: Progress, peer: str) -> None:
        """Deliver what the decode side has done.

        Raises:
            LinkProtocolError: it speaks of a request that was not handed over.
        """
        for number, tokens in progress.tokens:
            request = self._away(number, peer)
            for token in tokens:
                request.take(token, EOS)
        for ended in progress.ended:
            self._ended_there(self._away(ended.id, peer), ended, peer)

    def peer_lost(self, error: BaseException) -> None:
        """End all requests: none of them can go on."""
        self.lost = error
        away = self._fetch_back()
        self._finish_all((*away, *self.waiting, *self.running), FinishReason.ERROR, error)
        self._tell_if_empty()

    # Bookkeeping ------------------------------------------------------------

    def _plan(self) -> Plan[Request]:
        unread = [request for request in self.running if request.num_to_prefill]
        return plan_step(unread, self.limits, after_prefill=False)

    def _take_in(self, request: Request) -> None:
        self.credits.take(request.id)
        super()._take_in(request)

    def _let_go(self, request: Request) -> None:
        super()._let_go(request)
        if request.slot is None and request.finish is not None and request.id not in self.away:
            self.credits.give_back(request.id)
            with suppress(SchedulerClosedError):  # what comes after the end changes nothing
                self.wake()

    def _has_left(self, request: Request) -> bool:
        return super()._has_left(request) or request.id in self.away

    def _tell_if_empty(self) -> None:
        if not self.away:
            super()._tell_if_empty()

    def _hand_over(self, request: Request, token: int, keys: Tensor, values: Tensor) -> None:
        self.away[request.id] = request
        handed = HandOver(request.id, request.prompt, request.params, token, keys, values)
        self.outbox.append(handed)
        self.news.set()
        self.sent_away.set()

    def _call_back(self, number: int) -> None:
        """Give up a request that is away: the other side need not hear of it if it has not."""
        unsent = [each for each in self.outbox if isinstance(each, HandOver) and each.id == number]
        if unsent:
            self.outbox.remove(unsent[0])
            del self.away[number]
        else:
            self.outbox.append(Abort(number))
            self.news.set()

    def _fetch_back(self) -> tuple[Request, ...]:
        """Let nobody be away any more; return who was."""
        away = tuple(self.away.values())
        self.away.clear()
        self.outbox.clear()
        for request in away:
            self.credits.give_back(request.id)
        return away

    def _ended_there(self, request: Request, ended: Ended, peer: str) -> None:
        del self.away[request.id]
        error = RemoteRequestError(f"{peer}: {ended.error}") if ended.error else None
        request.end(ended.reason, error)
        self._let_go(request)

    def _away(self, number: int, peer: str) -> Request:
        if number not in self.away:
            raise LinkProtocolError(
                f"{peer} speaks of request {number}, which it was not given; "
                f"it has {len(self.away)} others"
            )
        return self.away[number]
