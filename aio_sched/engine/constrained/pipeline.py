"""Continuous batching for requests under a constraint, beside those without one.

A step without constrained requests is one of ``GenerationPipeline``. For the others see
``delayed.py``; what they cost the rest of their batch is that prepare waits until the device has
begun the step before, and computes their masks.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aio_sched.engine.admission import Limits, Plan
from aio_sched.engine.constrained.delayed import KEPT_LOGITS, Delayed, DelayedSampling, advance
from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.pipeline import Batch, GenerationPipeline
from aio_sched.engine.requests import FinishReason, Request
from aio_sched.engine.table import StepTable
from aio_sched.stages import HostCopy, Step
from buffers.access import Access
from buffers.slots import Slot
from streams.device import Device
from streams.launch import Launch

__all__ = ["ConstrainedPipeline"]


@dataclass(frozen=True, eq=False)
class GuidedBatch(Batch):
    """What a step with constrained requests works on.

    Attributes:
        masks: for the tokens that the step before has left, on the device; None in a prefill.
        runs_model: False if the step only samples the last tokens of its requests.
    """

    masks: Launch[Tensor] | None = None
    runs_model: bool = True


class Sampled(NamedTuple):
    """Tokens of a step: sampled behind its model, and before it."""

    behind: HostCopy | None
    before: Delayed | None


class ConstrainedPipeline(GenerationPipeline):
    """Continues the requests given to ``add``, each under its constraint if it has one.

    Args:
        model: see ``GenerationPipeline``, as the next three.
        device: where it runs.
        limits: sizes of a step.
        depth: steps that the scheduler may have in flight.
        name: the scheduler's, where several share the device.

    Raises:
        ValueError: as from ``GenerationPipeline``.
    """

    takes_constraints = True

    def __init__(
        self,
        model: ByteTransformer,
        device: Device,
        limits: Limits,
        *,
        depth: int = 2,
        name: str = "",
    ) -> None:
        super().__init__(
            model,
            device,
            limits,
            depth=depth,
            relay_fields=KEPT_LOGITS,
            relay_name=f"{name}.relay" if name else "relay",
        )
        self._delayed = DelayedSampling(device, self._relay, limits.max_running, depth=depth)

    # Stages -----------------------------------------------------------------

    async def prepare(self, step: Step) -> Batch | None:
        """Admit, choose and upload; behind its only await, so that no choice is left half made."""
        self._admit()
        plan = self._plan()
        if self._delayed.must_settle(plan.decode):
            await self._settle_newest()
            plan = self._plan()
        return self._begin(step, plan)

    def _begin(self, step: Step, plan: Plan[Request]) -> Batch | None:
        if all(request.guide is None for request in plan.requests):
            return super()._begin(step, plan)
        masks = self._upload_masks(step, plan)
        batch = super()._begin(step, plan)
        assert batch is not None, "the plan has requests"
        return GuidedBatch(
            batch.requests,
            _samples(batch),
            batch.is_prefill,
            batch.table,
            batch.overlap,
            masks=masks,
            runs_model=batch.is_prefill or any(map(_is_read, batch.requests)),
        )

    # Its output is of one of two kinds, which only publish looks at.
    async def forward(self, step: Step, inputs: Batch) -> Any:
        """Enqueue the delayed sampling, the model, its own sampling and the copy of the tokens."""
        if not isinstance(inputs, GuidedBatch):
            return await super().forward(step, inputs)
        # Nothing of prepare's is read later than this: a step's table is its own.
        step.shared_read_done()
        before: Delayed | None = None
        if inputs.masks is not None:
            before = self._delayed.sample(step, inputs.requests, inputs.table, inputs.masks)
        return Sampled(self._run(step, inputs) if inputs.runs_model else None, before)

    async def publish(self, step: Step, inputs: Batch, output: Any) -> None:
        """Hand each request its token; those that were sampled before the model come first."""
        if not isinstance(output, Sampled):
            await super().publish(step, inputs, output)
            return
        if output.before is not None:
            await self._settle(output.before, step.left_s)
        if output.behind is not None:
            self._deliver(inputs, await output.behind)

    def closed(self, error: BaseException | None) -> None:
        """End what waits and what runs: no step will come."""
        super().closed(error)
        self._delayed.close()

    # On the device ----------------------------------------------------------

    def _run(self, step: Step, inputs: GuidedBatch) -> HostCopy:
        reads, writes = self._accesses(inputs)
        run = self._run_prefill_and_keep if inputs.is_prefill else self._run_decode_and_keep
        launch = step.launch(run, inputs.table, reads=reads, writes=writes)
        self._delayed.kept(inputs.requests, launch)
        return step.copy_to_host(launch)

    @torch.inference_mode()
    def _run_prefill_and_keep(self, rows: Tensor) -> Tensor:
        table = StepTable(rows)
        return self._sample_and_keep(table, self._prefill(table))

    @torch.inference_mode()
    def _run_decode_and_keep(self, rows: Tensor) -> Tensor:
        table = StepTable(rows)
        return self._sample_and_keep(table, self._decode(table))

    def _sample_and_keep(self, table: StepTable, logits: Tensor) -> Tensor:
        self._delayed.keep(table, logits)
        return self._sample(table, logits)

    def _accesses(self, inputs: GuidedBatch) -> tuple[tuple[Access, ...], tuple[Access, ...]]:
        """Name what a launch of the model reads and writes.

        Not all tokens are written: those sampled before the model may be on their way to the host.
        """
        slots = [request.slot for request in inputs.requests]
        free = [request.slot for request in inputs.requests if request.guide is None]
        rows = _rows_of(slots)
        tokens, logits, cache = (
            self._relay.access("tokens", rows),
            self._relay.access("logits", rows),
            self._cache.accesses(rows),
        )
        own = (self._relay.access("tokens", _rows_of(free)),) if free else ()
        return (tokens, *cache), (*own, logits, *cache)

    # Bookkeeping ------------------------------------------------------------

    def _upload_masks(self, step: Step, plan: Plan[Request]) -> Launch[Tensor] | None:
        try:
            return self._delayed.upload(step, plan.decode)
        except Exception as error:
            # Now, because when ``failed`` is told, later steps have been planned.
            self._finish_all(plan.requests, FinishReason.ERROR, error)
            raise

    async def _settle(self, delayed: Delayed, timeout_s: float | None = None) -> None:
        """Give requests the tokens that a step has sampled before its model."""
        for request, token in await delayed.settle(timeout_s):
            if (error := advance(request, token)) is not None:
                self.finish(request, FinishReason.ERROR, error)
            self._let_go(request)

    async def _settle_newest(self) -> None:
        """Wait for the tokens that the next masks need; their failure is not this step's."""
        newest = self._delayed.newest
        assert newest is not None, "asked for only then"
        try:
            await self._settle(newest)
        except Exception as error:
            self._finish_all(newest.requests, FinishReason.ERROR, error)


def _samples(batch: Batch) -> tuple[bool, ...]:
    """Say for each row whether the step's own token belongs to its request."""
    return tuple(
        is_sampled and request.guide is None
        for request, is_sampled in zip(batch.requests, batch.samples, strict=True)
    )


def _is_read(request: Request) -> bool:
    """Whether the model reads a scheduled token: the last one of a guide it does not."""
    return request.guide is None or request.num_scheduled <= request.params.max_tokens


def _rows_of(slots: list[Slot | None]) -> tuple[int, ...]:
    return tuple(sorted(slot.index for slot in slots if slot is not None))
