"""The side that writes texts: it takes rows in, and goes on from the first token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from aio_sched.disaggregated.errors import LinkProtocolError
from aio_sched.disaggregated.messages import HandOver
from aio_sched.engine.admission import Limits, Plan
from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.pipeline import GenerationPipeline
from aio_sched.engine.requests import FinishReason, Request
from aio_sched.stages import Step
from aio_sched.wakeup import Wakeup
from buffers.staging import StagingRing
from streams.device import Device
from streams.launch import Launch

__all__ = ["ArrivedRequest", "DecodePipeline"]


@dataclass(eq=False)
class ArrivedRequest(Request):
    """A request from the other side.

    Attributes:
        rows: its keys and values on the host, until they are on their way to a slot.
        first_token: what its first decode step reads.
    """

    rows: tuple[Tensor, Tensor] | None = None
    first_token: int = 0


class DecodePipeline(GenerationPipeline):
    """Continues requests whose prompts were read elsewhere.

    Its steps are ``GenerationPipeline``'s decode steps, of the same shape: with the same
    ``max_running`` it writes the same texts. Prepare uploads the rows of new requests to
    their slots on the schedule stream.

    Args:
        model: on ``device``; the other side has the same.
        device: where the KV cache and the relay are allocated, which blocks.
        max_running: requests that decode together.
        depth: steps that the scheduler may have in flight.
        uploads_per_step: requests that one step takes in at most: each is copied to
            page-locked memory by prepare, on the loop's thread.

    Raises:
        ValueError: as from ``GenerationPipeline``, or ``uploads_per_step`` is below 1.
    """

    def __init__(
        self,
        model: ByteTransformer,
        device: Device,
        max_running: int,
        *,
        depth: int = 2,
        uploads_per_step: int = 1,
    ) -> None:
        if uploads_per_step < 1:
            raise ValueError(f"uploads_per_step={uploads_per_step} takes nobody in; use 1 or more")
        super().__init__(model, device, Limits(max_running, 1, 1), depth=depth)
        self.uploads_per_step = uploads_per_step
        config, keys = model.config, self._cache.keys
        self._row_shape = (config.num_layers, config.num_heads, config.head_dim)
        self._row_staging = StagingRing(
            device,
            (self._cache.max_len, *self._row_shape),
            keys.dtype,
            depth=2 * uploads_per_step * (depth + 1),
            name="handed rows",
        )

    def arrive(self, handed: HandOver, news: Wakeup) -> ArrivedRequest:
        """Queue a request that was handed over; the caller wakes the scheduler.

        Args:
            handed: its rows must not change any more.
            news: set when the request has tokens or has ended; may be shared.

        Raises:
            LinkProtocolError: it does not fit this model; says in what.
        """
        self._check(handed)
        request = ArrivedRequest(
            handed.id,
            handed.prompt,
            handed.params,
            num_prefilled=len(handed.prompt),
            num_scheduled=1,
            output=bytearray([handed.first_token]),
            news=news,
            rows=(handed.keys, handed.values),
            first_token=handed.first_token,
        )
        self.add(request)
        return request

    @property
    def row_bytes(self) -> int:
        """Bytes of keys and values of one token."""
        return 2 * math.prod(self._row_shape) * self._cache.keys.itemsize

    # On the device ----------------------------------------------------------

    @torch.inference_mode()
    def _fill_slot(self, row: int, token: int, keys: Tensor, values: Tensor) -> None:
        """Write keys and values ``[tokens, layers, heads, head_dim]`` to the front of a slot."""
        length = keys.shape[0]
        self._cache.keys[:, row, :, :length] = keys.permute(1, 2, 0, 3)
        self._cache.values[:, row, :, :length] = values.permute(1, 2, 0, 3)
        where = torch.full((1,), row, dtype=torch.int64, device=keys.device)
        self._relay.stash_rows(where, tokens=torch.full_like(where, token))

    # Bookkeeping ------------------------------------------------------------

    def _admit(self) -> None:
        for _ in range(min(self.uploads_per_step, len(self.waiting), self.num_free_slots)):
            self._take_in(self.waiting.popleft())

    def _upload(
        self, step: Step, plan: Plan[Request], requests: Sequence[Request]
    ) -> Launch[Tensor]:
        new = [each for each in requests if isinstance(each, ArrivedRequest) and each.rows]
        # WAR: a next owner's rows go where the upload of a step that broke off still writes.
        self._claim(step, new)
        try:
            for request in new:
                self._upload_rows(step, request)
        except Exception as error:
            self._finish_all(requests, FinishReason.ERROR, error)
            raise
        return super()._upload(step, plan, requests)

    def _upload_rows(self, step: Step, request: ArrivedRequest) -> None:
        assert request.rows is not None, "the caller has looked"
        assert request.slot is not None, "a scheduled request has a slot"
        upload = partial(self._row_staging.upload, step.schedule_stream)
        keys, values = map(upload, request.rows)
        request.rows = None
        # RAW: decode reads the rows and the token that this writes on the schedule stream.
        # WAR: it rewrites rows of the slot's former owner; that one's claims have ended.
        step.launch(
            self._fill_slot,
            request.slot.index,
            request.first_token,
            keys,
            values,
            writes=self._rows((request.slot,)),
        )

    def _check(self, handed: HandOver) -> None:
        size, shape = len(handed.prompt), (len(handed.prompt), *self._row_shape)
        for rows in (handed.keys, handed.values):
            if rows.shape != shape or rows.dtype != self._cache.keys.dtype:
                raise LinkProtocolError(
                    f"request {handed.id} comes with rows of {tuple(rows.shape)} {rows.dtype}, and "
                    f"its prompt needs {shape} {self._cache.keys.dtype}"
                )
        if size < 1 or size + handed.params.max_tokens > self.max_len:
            raise LinkProtocolError(
                f"request {handed.id} has {size} tokens and wants {handed.params.max_tokens}; "
                f"at least 1 and together at most {self.max_len} fit"
            )
        if not 0 < handed.first_token < 256 or handed.params.max_tokens < 2:
            raise LinkProtocolError(
                f"request {handed.id} comes with token {handed.first_token} and "
                f"max_tokens={handed.params.max_tokens}: it has nothing to decode"
            )
