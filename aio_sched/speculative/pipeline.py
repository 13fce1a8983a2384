"""Draft and verify as a pipeline.

A step is a prefill of both models, or drafts some tokens for each request, verifies them in
one forward of the target model, and publishes through the relay, in the middle of its
forward, how many were accepted. How far a text has come is known on the device only, unless
the host asks: over a device stream of its own, which waits for that publish and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aio_sched.engine.admission import Limits, Plan, plan_step
from aio_sched.engine.model import EOS, ByteTransformer
from aio_sched.engine.request_pipeline import RequestPipeline
from aio_sched.engine.requests import FinishReason, Request
from aio_sched.engine.table import decode_shape, prefill_rows, prefill_shape
from aio_sched.speculative.device_work import DeviceWork
from aio_sched.speculative.drafter import Drafter, DraftStart
from aio_sched.speculative.gate import PlanGate
from aio_sched.speculative.policies import HostLengths, PlanPolicy
from aio_sched.speculative.stats import SpeculationStats
from aio_sched.speculative.table import rows_of, slots_of, verify_rows
from aio_sched.stages import HostCopy, Step
from buffers.staging import StagingRing
from streams.device import Device
from streams.launch import Launch
from streams.monitor import freed

__all__ = ["SpeculativeBatch", "SpeculativePipeline"]


@dataclass(frozen=True, eq=False)
class SpeculativeBatch:
    """What one step works on.

    Attributes:
        requests: by row; their slots are claimed until the step has left the device.
        completes: for a prefill, whether the row's prompt ends here; empty for a verify.
        draws: whether some row has a temperature above 0.
        table: the step's ``StepTable`` on the device; every step has its own.
    """

    requests: tuple[Request, ...]
    completes: tuple[bool, ...]
    draws: bool
    table: Launch[Tensor]


class SpeculativePipeline(RequestPipeline[SpeculativeBatch, HostCopy]):
    """Continues the requests given to ``add``; see ``SpeculativeEngine`` for the arguments.

    Attributes:
        stats: what drafting has achieved so far.
        plan_stream: where verifies are planned.
    """

    def __init__(
        self,
        model: ByteTransformer,
        drafter: Drafter,
        device: Device,
        limits: Limits,
        *,
        num_draft: int,
        plan: PlanPolicy,
        host_lengths: HostLengths,
        depth: int,
        strict: bool,
        name: str,
    ) -> None:
        super().__init__(limits.max_running, model.config.max_len)
        self.limits = limits
        self.stats = SpeculationStats()
        self._device = device
        self._plan = plan
        self._host_lengths = host_lengths
        self._gate = PlanGate(strict=strict)
        self._work = DeviceWork(model, drafter, device, limits, num_draft, name)
        self._relay = self._work.relay
        self._slots.follow(
            lambda slot: freed(device, self._work.all_rows((slot.index,)), "give_back")
        )
        # One upload a step: a block for each step in flight and one never run out.
        self._decode_staging, self._prefill_staging = (
            StagingRing(device, shape, torch.int64, depth=depth + 1)
            for shape in (decode_shape(limits), prefill_shape(limits))
        )
        self._after_prefill = False
        self.plan_stream = device.stream(f"{name}plan")
        private = self._relay.mirror.stream
        self.streams = (self.plan_stream, *((private,) if private else ()))

    def close(self) -> None:
        """Give the streams back, when the scheduler has ended and the device is at rest."""
        self.plan_stream.close()
        self._relay.close()

    # Stages -----------------------------------------------------------------

    async def prepare(self, step: Step) -> SpeculativeBatch | None:
        """Admit, choose and upload."""
        self._admit()
        plan = self._choose()
        if plan.decode and self._host_lengths is HostLengths.EXACT:
            await self._learn_lengths(step, plan.decode)
            plan = self._choose()
        requests = tuple(chunk.request for chunk in plan.prefill) or plan.decode
        if not requests:
            return None
        self._after_prefill = bool(plan.prefill)
        table = self._upload(step, plan, requests)
        self._claim(step, requests)
        _advance(plan)
        completes = tuple(chunk.is_last for chunk in plan.prefill)
        draws = any(request.params.temperature > 0 for request in requests)
        return SpeculativeBatch(requests, completes, draws, table)

    async def forward(self, step: Step, inputs: SpeculativeBatch) -> HostCopy:
        """Enqueue one step of both models, and the copy of its tokens."""
        # Nothing of prepare's is read later than this: a step's table is its own.
        step.shared_read_done()
        return self._prefill(step, inputs) if inputs.completes else self._verify(step, inputs)

    async def publish(self, step: Step, inputs: SpeculativeBatch, output: HostCopy) -> None:
        """Hand each request its tokens."""
        rows = (await output).tolist()
        self.stats.refused_events = self._gate.num_refused
        if inputs.completes:
            for request, token, completes in zip(
                inputs.requests, rows, inputs.completes, strict=False
            ):
                self._give(request, (token,) if completes else ())
            return
        for request, (accepted, *chosen) in zip(inputs.requests, rows, strict=False):
            self._count(request, accepted)
            self.stats.tokens += self._give(request, chosen[: accepted + 1])

    # On the device ----------------------------------------------------------

    def _prefill(self, step: Step, inputs: SpeculativeBatch) -> HostCopy:
        work, table = self._work, inputs.table
        target, draft = self._target_rows(inputs), self._draft_rows(inputs)
        kept = work.kept_hidden(rows_of(inputs.requests))
        tokens = step.launch(work.prefill, table, reads=target, writes=(*target, *kept))
        complete = [
            request
            for request, completes in zip(inputs.requests, inputs.completes, strict=True)
            if completes
        ]
        if complete:
            use = self._relay.publishes(slots_of(complete), "tokens", "lengths")
            step.watch(self._relay.launch(work.publish_prompts, table, tokens, uses=[use]))
        output = step.copy_to_host(tokens)
        step.launch(work.prefill_draft, table, reads=draft, writes=draft)
        return output

    def _verify(self, step: Step, inputs: SpeculativeBatch) -> HostCopy:
        work = self._work
        start, drafted = self._draft(step, inputs)
        self._plan_verify(step, inputs)
        read = work.inputs.accesses("cells", "tokens", "is_future", "noise")
        step.launch(work.refill, start, drafted, writes=work.inputs.accesses("tokens"))
        rows = self._target_rows(inputs)
        verified = step.launch(work.verify, start, reads=(*rows, *read), writes=rows)
        use = self._relay.publishes(slots_of(inputs.requests), "tokens", "lengths")
        accepted = step.watch(self._relay.launch(work.accept, start, drafted, verified, uses=[use]))
        # Enqueued here, so that neither the tokens nor the lengths wait for the drafter.
        output = step.copy_to_host(accepted)
        own = self._draft_rows(inputs)
        step.launch(work.extend_draft, start, drafted, verified, reads=own, writes=own)
        return output

    def _draft(
        self, step: Step, inputs: SpeculativeBatch
    ) -> tuple[Launch[DraftStart], Launch[Tensor]]:
        work = self._work
        cells, own = work.inputs.accesses("cells"), self._draft_rows(inputs)
        late = cells if work.drafter.reads_shared_cells else ()
        relayed = self._relayed(inputs, "tokens", "lengths")
        standing = step.launch(work.claim_cells, inputs.table, reads=relayed, writes=cells)
        start = step.launch(work.begin_draft, inputs.table, standing, inputs.draws, reads=cells)
        if not late and self._plan is PlanPolicy.TARGETED:
            self._gate.post(step, step.forward_stream.record("draft_cells_read"))
        return start, step.launch(work.draft, start, reads=(*own, *late), writes=own)

    def _plan_verify(self, step: Step, inputs: SpeculativeBatch) -> None:
        work = self._work
        stream = step.forward_stream
        if self._plan is not PlanPolicy.OFF:
            stream = self.plan_stream
            self._gate.enter(step, stream)
        step.watch(
            stream.launch(
                work.plan_verify,
                inputs.table,
                inputs.draws,
                reads=self._relayed(inputs, "lengths"),
                writes=work.inputs.accesses("cells", "is_future", "noise"),
            )
        )
        # RAW: the verify reads cells, mask and noise that the plan is still writing.
        step.forward_stream.wait_stream(stream)

    def _relayed(self, inputs: SpeculativeBatch, *fields: str) -> tuple[object, ...]:
        rows = rows_of(inputs.requests)
        return tuple(self._relay.access(field, rows) for field in fields)

    def _target_rows(self, inputs: SpeculativeBatch) -> tuple[object, ...]:
        return self._work.target_rows(rows_of(inputs.requests))

    def _draft_rows(self, inputs: SpeculativeBatch) -> tuple[object, ...]:
        return self._work.drafter.accesses(rows_of(inputs.requests))

    # Bookkeeping ------------------------------------------------------------

    def _choose(self) -> Plan[Request]:
        return plan_step(self.running, self.limits, after_prefill=self._after_prefill)

    async def _learn_lengths(self, step: Step, requests: Sequence[Request]) -> None:
        """Learn how many tokens the requests have, those of steps in flight included."""
        self._claim(step, requests)
        pulled = self._relay.mirror.pull(slots_of(requests))
        if pulled.launch is not None:
            step.watch(pulled.launch)
        try:
            values = await pulled
        except Exception:
            if self._device.lost is not None:
                raise
            # The step whose publish has failed tells its requests. This one does without: it
            # plans for the least that the others can have.
            return
        assert values is not None, "the mirror of this relay is used"
        for request, length in zip(requests, values["lengths"].tolist(), strict=True):
            request.num_scheduled = length + 1 - len(request.prompt)

    def _upload(
        self, step: Step, plan: Plan[Request], requests: Sequence[Request]
    ) -> Launch[Tensor]:
        if plan.prefill:
            rows, staging = prefill_rows(plan.prefill, self.limits), self._prefill_staging
        else:
            rows, staging = verify_rows(plan.decode, self.limits), self._decode_staging
        try:
            return staging.upload(step.schedule_stream, rows)
        except Exception as error:
            # Now, because when ``failed`` is told, later steps have been planned.
            self._finish_all(requests, FinishReason.ERROR, error)
            raise

    def _give(self, request: Request, tokens: Sequence[int]) -> int:
        """Hand a request its tokens; return how many its text gained."""
        before = len(request.output)
        for token in tokens:
            request.take(token, EOS)
        self._let_go(request)
        return len(request.output) - before

    def _count(self, request: Request, accepted: int) -> None:
        stats = self.stats
        if request.finish is not None:
            stats.wasted_rows += 1
            return
        stats.rows += 1
        stats.drafted += self._work.num_draft
        stats.accepted += accepted
        if self._host_lengths is HostLengths.NONE:
            request.num_scheduled += accepted


def _advance(plan: Plan[Request]) -> None:
    """Count what the plan schedules: of a verify the one token that it gives for certain."""
    for chunk in plan.prefill:
        chunk.request.num_prefilled += chunk.length
        chunk.request.num_scheduled += chunk.is_last
    for request in plan.decode:
        request.num_scheduled += 1
