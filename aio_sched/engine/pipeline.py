"""Continuous batching of a language model as a pipeline.

Every step has one of two fixed shapes, so that a row's result does not depend on its
neighbours: a prefill of ``prefill_rows`` chunks, or a decode of ``max_running`` rows.
Rows without a request use slot 0, the padding row. The token that a step samples
reaches the next step through the relay, on the device: the host schedules decode n+1
before it has seen token n, and discards what was sampled past the end of a text.
Requests under a constraint have to wait for token n: ``constrained/``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from aio_sched.engine.admission import Limits, Plan, plan_step
from aio_sched.engine.kv_cache import KVCache
from aio_sched.engine.model import EOS, ByteTransformer
from aio_sched.engine.request_pipeline import RequestPipeline
from aio_sched.engine.requests import FinishReason, Request
from aio_sched.engine.sampling import sample
from aio_sched.engine.table import StepTable, decode_rows, decode_shape, prefill_rows, prefill_shape
from aio_sched.stages import HostCopy, Step
from buffers.access import Access
from buffers.fields import FieldSpec
from buffers.relay import RelayBuffer
from buffers.slots import Slot
from buffers.staging import StagingRing
from streams.device import Device
from streams.launch import Launch
from streams.monitor import freed, host_writes

__all__ = ["Batch", "GenerationPipeline", "check_model"]


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step works on.

    Attributes:
        requests: by row; their slots are claimed until the step has left the device.
        samples: whether the row's sampled token belongs to its request.
        table: the step's ``StepTable`` on the device; every step has its own.
        overlap: False if the step is to have the device to itself.
    """

    requests: tuple[Request, ...]
    samples: tuple[bool, ...]
    is_prefill: bool
    table: Launch[Tensor]
    overlap: bool = True


class GenerationPipeline(RequestPipeline[Batch, HostCopy]):
    """Continues the requests given to ``add``.

    Args:
        model: on ``device``.
        device: where the KV cache and the relay are allocated, which blocks.
        limits: sizes of a step; ``max_running`` requests hold a slot at once.
        depth: steps that the scheduler may have in flight.
        relay_fields: what a subclass relays beside the tokens.
        relay_name: see ``RelayBuffer``.

    Raises:
        ValueError: a size below 1, or a model on another device or not of bytes.
    """

    def __init__(
        self,
        model: ByteTransformer,
        device: Device,
        limits: Limits,
        *,
        depth: int = 2,
        relay_fields: Mapping[str, FieldSpec] = MappingProxyType({}),
        relay_name: str = "relay",
    ) -> None:
        check_model(model, device, limits)
        num_slots = limits.max_running
        super().__init__(num_slots, model.config.max_len)
        self.limits = limits
        self._model = model
        self._cache = KVCache(model.config, num_slots, device=device.torch_device)
        # RAW: steps read the cache's zeros, written on torch's current stream; this waits for it.
        fields = {"tokens": FieldSpec(torch.int64), **relay_fields}
        self._relay = RelayBuffer(device, num_slots, fields, name=relay_name)
        self._tell_of_zeros(device)
        self._slots.follow(lambda slot: freed(device, self._rows((slot,)), "give_back"))
        # One upload a step: a block for each step in flight and one never run out.
        self._decode_staging, self._prefill_staging = (
            StagingRing(device, shape, torch.int64, depth=depth + 1)
            for shape in (decode_shape(limits), prefill_shape(limits))
        )
        self._after_prefill = False

    # Stages -----------------------------------------------------------------

    async def prepare(self, step: Step) -> Batch | None:
        """Admit, choose and upload; has no await, so that no choice is left half made."""
        self._admit()
        return self._begin(step, self._plan())

    def _plan(self) -> Plan[Request]:
        return plan_step(self.running, self.limits, after_prefill=self._after_prefill)

    def _begin(self, step: Step, plan: Plan[Request]) -> Batch | None:
        """Upload a plan and count it as scheduled; None for an empty one."""
        requests = plan.requests
        if not requests:
            return None
        self._after_prefill = bool(plan.prefill)
        table = self._upload(step, plan, requests)
        self._claim(step, requests)
        samples = tuple(chunk.is_last for chunk in plan.prefill) or (True,) * len(requests)
        _advance(plan)
        return Batch(requests, samples, bool(plan.prefill), table)

    async def forward(self, step: Step, inputs: Batch) -> HostCopy:
        """Enqueue the model, the sampling and the copy of the tokens."""
        # Nothing of prepare's is read later than this: a step's table is its own.
        step.shared_read_done()
        run = self._run_prefill if inputs.is_prefill else self._run_decode
        uses = self._uses(inputs)
        tokens = step.launch(run, inputs.table, reads=uses, writes=uses)
        return step.copy_to_host(self._results(inputs, tokens), reused=False)

    async def publish(self, step: Step, inputs: Batch, output: HostCopy) -> None:
        """Hand each request its token."""
        self._deliver(inputs, await output)

    # For subclasses ---------------------------------------------------------

    def _uses(self, inputs: Batch) -> tuple[Access, ...]:
        """Name what a step's launch reads and writes."""
        return self._rows(request.slot for request in inputs.requests)

    def _results(self, inputs: Batch, tokens: Launch[Tensor]) -> Any:
        """Return what is copied to the host, memory of this step only; called in forward."""
        return tokens

    def _deliver(self, inputs: Batch, results: Any) -> None:
        """Hand each request its token; ``results`` are those of ``_results`` on the host."""
        for request, token, is_sampled in zip(
            inputs.requests, results.tolist(), inputs.samples, strict=False
        ):
            if is_sampled:
                request.take(token, EOS)
                self._let_go(request)

    # On the device ----------------------------------------------------------

    @torch.inference_mode()
    def _run_prefill(self, rows: Tensor) -> Tensor:
        table = StepTable(rows)
        return self._sample(table, self._prefill(table))

    @torch.inference_mode()
    def _run_decode(self, rows: Tensor) -> Tensor:
        table = StepTable(rows)
        return self._sample(table, self._decode(table))

    def _prefill(self, table: StepTable) -> Tensor:
        return self._model.prefill(
            table.tokens, table.slots, table.starts, table.lengths, self._cache
        )

    def _decode(self, table: StepTable) -> Tensor:
        # RAW: reads the token rows that the step before has stashed; one stream, FIFO.
        tokens = self._relay.gather_rows(table.slots, ["tokens"])["tokens"]
        return self._model.decode(tokens, table.slots, table.starts, self._cache)

    def _sample(self, table: StepTable, logits: Tensor) -> Tensor:
        positions = table.starts + table.lengths
        tokens = sample(logits, table.temperatures, table.seeds, positions)
        self._relay.stash_rows(table.stash_slots, tokens=tokens)
        return tokens

    def _rows(self, slots: Iterable[Slot | None]) -> tuple[Access, ...]:
        """Name the memory that belongs to some slots."""
        rows = tuple(sorted(slot.index for slot in slots if slot is not None))
        relay = (self._relay.access(field, rows) for field in self._relay.specs)
        return *relay, *self._cache.accesses(rows)

    def _tell_of_zeros(self, device: Device) -> None:
        """Tell checkers that the cache was filled before any step."""
        for access in self._cache.accesses(tuple(range(self._cache.num_slots + 1))):
            host_writes(device, access)

    # Bookkeeping ------------------------------------------------------------

    def _upload(
        self, step: Step, plan: Plan[Request], requests: Sequence[Request]
    ) -> Launch[Tensor]:
        if plan.prefill:
            rows, staging = prefill_rows(plan.prefill, self.limits), self._prefill_staging
        else:
            rows, staging = decode_rows(plan.decode, self.limits), self._decode_staging
        try:
            return staging.upload(step.schedule_stream, rows)
        except Exception as error:
            # Now, because when ``failed`` is told, later steps have been planned.
            self._finish_all(requests, FinishReason.ERROR, error)
            raise


def check_model(model: ByteTransformer, device: Device, limits: Limits) -> None:
    """Refuse a model that an engine of bytes on this device cannot run.

    Raises:
        ValueError: a size below 1, or a model on another device or not of bytes.
    """
    for name, size in limits._asdict().items():
        if size < 1:
            raise ValueError(f"{name}={size} is below 1; a step needs at least one")
    where = model.embed.weight.device
    if where.type != device.torch_device.type:
        raise ValueError(
            f"the model is on {where} and the engine's device is {device.torch_device}; "
            f"move it with model.to({str(device.torch_device)!r})"
        )
    if model.config.vocab != 256:
        raise ValueError(f"the model has vocab={model.config.vocab}; the engine needs 256, bytes")


def _advance(plan: Plan[Request]) -> None:
    """Count what the plan schedules."""
    for chunk in plan.prefill:
        chunk.request.num_prefilled += chunk.length
        chunk.request.num_scheduled += chunk.is_last
    for request in plan.decode:
        request.num_scheduled += 1
