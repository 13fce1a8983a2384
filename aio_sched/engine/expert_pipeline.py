"""Continuous batching that returns, with each text, which experts its tokens were given."""

from typing import Any

from torch import Tensor

from aio_sched.engine.admission import Limits
from aio_sched.engine.experts import MixtureTransformer
from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.pipeline import Batch, GenerationPipeline
from aio_sched.engine.requests import FinishReason, Request
from buffers.access import Access
from buffers.capture import CaptureCache
from buffers.captured_rows import Captured
from buffers.errors import CaptureRowsError
from buffers.slots import Slot
from streams.device import Device
from streams.launch import Launch

__all__ = ["ExpertPipeline"]


class ExpertPipeline(GenerationPipeline):
    """A ``GenerationPipeline`` that fills ``Request.routed_experts``.

    The launch of a step writes what the layers choose into the capture cache; a clone goes to
    the host with the tokens, and into the slot's rows before they are delivered. Steps that
    were in flight when a text ended add no rows. A step whose rows do not fit their requests'
    tokens fails, and they with it.

    Args:
        model: with experts, on ``device``.
        device: as for ``GenerationPipeline``.
        limits: as for ``GenerationPipeline``.
        depth: as for ``GenerationPipeline``.

    Attributes:
        capture: what the layers chose.

    Raises:
        ValueError: the model has no experts; or as for ``GenerationPipeline``.
    """

    def __init__(
        self, model: ByteTransformer, device: Device, limits: Limits, *, depth: int = 2
    ) -> None:
        if not isinstance(model, MixtureTransformer):
            raise ValueError(
                f"{type(model).__name__} has no experts to capture; give the model that "
                "load_mixture() returns, or leave capture_experts out"
            )
        super().__init__(model, device, limits, depth=depth)
        self.capture = CaptureCache(
            device,
            model.capture_shape,
            max_rows=max(limits.prefill_rows * limits.chunk, limits.max_running),
            num_slots=limits.max_running,
            max_len=self.max_len,
        )
        self._model = model.capturing(self.capture)
        self._num_read: dict[Request, int] = {}

    def _uses(self, inputs: Batch) -> tuple[Access, ...]:
        return *super()._uses(inputs), *self.capture.accesses(self._num_rows(inputs))

    def _results(self, inputs: Batch, tokens: Launch[Tensor]) -> Any:
        return tokens, self.capture.take(slice(0, self._num_rows(inputs)))

    def _deliver(self, inputs: Batch, results: Any) -> None:
        tokens, captured = results
        self._keep(inputs, captured)
        super()._deliver(inputs, tokens)

    def _keep(self, inputs: Batch, captured: Captured) -> None:
        """Keep the rows of those who still want them; before any gets its token."""
        wanted = [
            (request, _slot(request), is_sampled)
            for request, is_sampled in zip(inputs.requests, inputs.samples, strict=True)
            if request.finish is None
        ]
        self.capture.host.scatter(captured, {slot: None for _, slot, _ in wanted})
        for request, slot, is_sampled in wanted:
            if is_sampled:
                self._check_rows(request, self.capture.host.num_rows(slot))

    def _check_rows(self, request: Request, num_rows: int) -> None:
        # The token to come was sampled behind the prompt and all tokens before it.
        self._num_read[request] = num_tokens = len(request.prompt) + len(request.output)
        if num_rows != num_tokens:
            raise CaptureRowsError(
                f"request {request.id} has {num_rows} captured rows for {num_tokens} tokens; "
                "each token that a forward reads must be captured once"
            )

    def _let_go(self, request: Request) -> None:
        if request.finish is not None and request in self._num_read:
            num_read = self._num_read.pop(request)
            if request.finish is not FinishReason.ERROR:
                request.routed_experts = self.capture.host.collect(_slot(request), num_read)
        super()._let_go(request)

    def _num_rows(self, inputs: Batch) -> int:
        """Rows of the step's shape, padding included."""
        limits = self.limits
        return limits.prefill_rows * limits.chunk if inputs.is_prefill else limits.max_running


def _slot(request: Request) -> Slot:
    assert request.slot is not None, "a request keeps its slot while a step is to be delivered"
    return request.slot
