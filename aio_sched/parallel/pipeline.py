"""Continuous batching on several ranks in step: each with its own requests, none by itself.

A pass is what one prepare does together with the other ranks: whether to prefill is
negotiated, then each rank states what it would run, then all of them run, those without work
an idle batch. The exchanges of a pass are the same on every rank, whatever happens to its own
requests, and every branch that another rank must take too is decided by gathered data.
"""

from dataclasses import replace
from typing import NamedTuple

from aio_sched.engine.admission import Limits, Plan, plan_step
from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.pipeline import Batch, GenerationPipeline
from aio_sched.engine.requests import FinishReason, Request
from aio_sched.engine.table import decode_rows
from aio_sched.errors import SchedulerClosedError
from aio_sched.parallel.batch_sync import BatchSync
from aio_sched.parallel.consensus import RankConsensus
from aio_sched.parallel.delayer import DelayerLimits
from aio_sched.parallel.delayer_stats import DelayerStats
from aio_sched.parallel.global_batch import GlobalBatch, Mode, RankState, SyncPolicy
from aio_sched.parallel.group import RankGroup
from aio_sched.parallel.membership import Membership
from aio_sched.parallel.prefill_delayer import PrefillDelayer, RankLoad
from aio_sched.stages import Step
from streams.device import Device
from streams.log import get_logger

__all__ = ["DataParallelPipeline", "RankStats"]

log = get_logger("parallel")


class RankStats(NamedTuple):
    """What a rank did in step with the others.

    Attributes:
        passes: exchanges of what each rank would run.
        batches: batches that it ran, idle ones included.
        idle_batches: batches that it ran only because another rank had work.
        serial_batches: batches that did not overlap with their neighbours.
        digest: of all that the ranks have decided, if they check: the same on all of them
            after the same pass; 0 otherwise.
        delayer: what was decided about prefills.
    """

    passes: int
    batches: int
    idle_batches: int
    serial_batches: int
    digest: int
    delayer: DelayerStats


class DataParallelPipeline(GenerationPipeline):
    """Continues the requests of one rank, in step with the other ranks of a group.

    While no rank has work, none exchanges anything: they sleep until one rings. A rank that
    has nothing to run while another has runs an idle batch: a decode of padding rows only, so
    that collectives inside of the model find every rank there.

    If an exchange fails, all requests end with its error and the scheduler stops with it. The
    group is left at the end, whatever the end is.

    Args:
        model: see ``GenerationPipeline``, as the next three.
        device: of this rank.
        limits: the same on every rank.
        group: of the ranks; nobody else makes exchanges on it.
        depth: steps that the scheduler may have in flight.
        delayer: how prefills are delayed; by default they are not. The same on every rank.
        consecutive_prefill_overlap: see ``SyncPolicy``.
        rank_check: compare what the ranks decide, in the frame that travels anyway.

    Attributes:
        wants_overlap: set it to False, and no rank overlaps its steps from the next pass on.
        synced: what the latest pass has come to; None before the first.
        membership: sleeping and leaving.
    """

    def __init__(
        self,
        model: ByteTransformer,
        device: Device,
        limits: Limits,
        group: RankGroup,
        *,
        depth: int = 2,
        delayer: DelayerLimits | None = None,
        consecutive_prefill_overlap: bool = True,
        rank_check: bool = False,
    ) -> None:
        super().__init__(model, device, limits, depth=depth)
        delayer = delayer or DelayerLimits(limits.max_running)
        policy = SyncPolicy(consecutive_prefill_overlap, (limits.max_running,))
        self.group = group
        self.wants_overlap = True
        self.synced: GlobalBatch | None = None
        self.membership = Membership(group, self.wake)
        self._delayer = PrefillDelayer(group, delayer)
        self._consensus = RankConsensus(group, enabled=rank_check)
        self._sync = BatchSync(group, policy, consensus=self._consensus, settings=limits)
        self._device = device
        self._num_batches = self._num_idle = self._num_serial = self._num_passes = 0

    @property
    def rank_stats(self) -> RankStats:
        """What this rank did so far."""
        counts = (self._num_passes, self._num_batches, self._num_idle, self._num_serial)
        return RankStats(*counts, self._consensus.digest, self._delayer.stats)

    async def leave(self, farewell_s: float) -> None:
        """End all requests as aborted, and leave the group; see ``Membership.leave``."""
        ended = SchedulerClosedError("the engine stopped before the text was complete")
        self._finish_all((*self.waiting, *self.running), FinishReason.ABORTED, ended)
        await self.membership.leave(farewell_s)

    # For the scheduler ------------------------------------------------------

    async def prepare(self, step: Step) -> Batch | None:
        """Make a pass with the other ranks, and upload what this one runs in it."""
        membership = self.membership
        if membership.has_parted:
            return None
        if membership.is_asleep:
            if self._has_work():
                self.group.ring()
            return None
        try:
            plan, merged = await self._pass(step)
        except Exception as error:
            self._give_up(error)
            raise
        return None if merged.is_idle else self._launch(step, plan, merged)

    def closed(self, error: BaseException | None) -> None:
        """End what waits and what runs, and leave the group: no step will come."""
        super().closed(error)
        self.membership.part()

    # A pass -----------------------------------------------------------------

    async def _pass(self, step: Step) -> tuple[Plan[Request], GlobalBatch]:
        """Agree with the other ranks on a batch, or on there being nothing to do."""
        while True:
            await self.membership.settle()
            plan = await self._negotiate(step)
            self.synced = merged = await self._sync.gather(self._state_of(plan))
            self._num_passes += 1
            self.membership.follow(merged)
            if not merged.is_idle or merged.can_sleep or self.membership.has_parted:
                return plan, merged

    async def _negotiate(self, step: Step) -> Plan[Request]:
        """Plan what this rank would run, prefills only if the group has them now.

        The slots are claimed from here on: a request that is aborted during the exchange
        that follows keeps its rows until the step has left the device.
        """
        if not self._is_leaving:
            self._admit()
        load = self._load()
        allowed = bool(self._plan().prefill) and await self._delayer.negotiate(load)
        plan = self._plan() if allowed else self._plan_decode()
        if plan.requests:
            self._claim(step, plan.requests)
        decision = await self._delayer.finish_pass(load, prefilled=len(plan.prefill))
        if decision is not None:
            self._consensus.note("delayer", decision.allow, decision.refusals)
        return plan

    def _plan_decode(self) -> Plan[Request]:
        ready = [request for request in self.running if request.can_decode]
        return plan_step(ready, self.limits, after_prefill=True)

    def _load(self) -> RankLoad:
        num_unread = sum(request.num_to_prefill > 0 for request in self.running)
        num_decoding = sum(request.can_decode for request in self.running)
        usage = 1 - self.num_free_slots / self.limits.max_running
        resumes = any(chunk.start > 0 for chunk in self._plan().prefill)
        return RankLoad(num_decoding, len(self.waiting) + num_unread, usage, resumes)

    def _state_of(self, plan: Plan[Request]) -> RankState:
        is_extend = bool(plan.prefill)
        num_tokens = sum(chunk.length for chunk in plan.prefill) or len(plan.decode)
        mode = Mode.PREFILL if is_extend else Mode.DECODE if plan.decode else Mode.IDLE
        return RankState(
            tokens=num_tokens,
            mode=mode,
            is_extend=is_extend,
            can_graph=not is_extend,
            overlap_off=not self.wants_overlap,
            has_more=mode is Mode.IDLE and not self._is_leaving and self._has_requests(),
            farewell=self.membership.farewell,
        )

    def _has_work(self) -> bool:
        """Whether a sleeping rank has something to tell the others."""
        return self._is_leaving or self._has_requests()

    def _has_requests(self) -> bool:
        """Whether some request could be in a batch now."""
        self._admit()
        return bool(self._plan().requests)

    @property
    def _is_leaving(self) -> bool:
        return bool(self.membership.farewell)

    # What comes of it -------------------------------------------------------

    def _launch(self, step: Step, plan: Plan[Request], merged: GlobalBatch) -> Batch:
        batch: Batch | None = None
        try:
            batch = self._begin(step, plan)
        except Exception as error:
            # Its requests have ended with it; the other ranks still expect a batch.
            log.error("batch_replaced_by_idle_one", step=step.index, error=repr(error))
            if self._device.lost is not None:
                raise
        self._num_batches += 1
        self._num_idle += batch is None
        self._num_serial += not merged.overlap
        batch = batch or self._idle_batch(step)
        return replace(batch, overlap=merged.overlap)

    def _idle_batch(self, step: Step) -> Batch:
        table = self._decode_staging.upload(step.schedule_stream, decode_rows((), self.limits))
        return Batch((), (), False, table)

    def _give_up(self, error: Exception) -> None:
        """End everything: without the others no step can be made."""
        self._finish_all((*self.waiting, *self.running), FinishReason.ERROR, error)
        if self._scheduler is not None:
            self._scheduler.fail(error)
