"""``PrefillDelayer``: the ranks of a group agree, once per pass, whether to prefill."""

import asyncio
import zlib
from types import TracebackType
from typing import NamedTuple, Self

from aio_sched.parallel.delayer import (
    Decision,
    DelayerLimits,
    DelayState,
    PrefillMark,
    RankReport,
    decide,
)
from aio_sched.parallel.delayer_stats import DelayerLedger, DelayerStats
from aio_sched.parallel.errors import RankBusyError, RankGroupClosedError, RankMismatchError
from aio_sched.parallel.group import RankGroup
from streams.clock import monotonic_ns

__all__ = ["DelayerPass", "PrefillDelayer", "RankLoad"]

_KIND = "prefill"


class RankLoad(NamedTuple):
    """What is known of this rank at the beginning of a pass.

    Attributes:
        running: requests that it decodes.
        queue: prompts that wait.
        usage: share of its memory (KV cache) in use, 0 to 1.
        resumes: a prefill would go on with a prompt that has been read in part.
    """

    running: int = 0
    queue: int = 0
    usage: float = 1.0
    resumes: bool = False


class _Agreed(NamedTuple):
    """What this pass has agreed on, and whether this rank had a prompt then."""

    decision: Decision
    prefillable: bool
    epoch: int


class PrefillDelayer:
    """Delays prefills until they cost the group least; see ``delayer.decide``.

    Every rank of the group has one, with the same limits, and all of them make the same
    passes: one per step that the scheduler thinks about, whether or not there is a prompt.
    Each pass makes exactly one exchange on each rank::

        load = RankLoad(running=..., queue=..., usage=...)
        async with delayer.single_pass(load) as turn:
            if prompts and await turn.negotiate():
                turn.prefilled = self.prefill(prompts)

    or, without the block, ``negotiate`` as often as you like and ``finish_pass`` once.

    An exchange that fails, or whose caller is cancelled meanwhile, leaves this rank not
    knowing what the others have decided. From then on each verb raises, until the group has
    been rebuilt; then all ranks begin again with nothing delayed. The pass that failed is
    over: do not finish it.

    Disabled limits exchange nothing and refuse nothing.

    Args:
        group: who agrees. Others may use it too, between two passes.
        limits: the same on every rank; the first exchange of an epoch finds out.
        timeout: seconds to wait for the other ranks; by default the group's own deadline.
    """

    def __init__(
        self, group: RankGroup, limits: DelayerLimits, *, timeout: float | None = None
    ) -> None:
        self.group = group
        self.limits = limits
        self._timeout = timeout
        self._fingerprint = zlib.crc32(repr(limits).encode())
        self._state = DelayState()
        self._state_epoch = group.epoch
        self._failed_epoch: int | None = None
        self._agreed: _Agreed | None = None
        self._is_exchanging = False
        self._mark = PrefillMark(limits.window)
        self._ledger = DelayerLedger()
        self._refused_at_ns: int | None = None
        self._queue = 0
        self._grew_at_ns = monotonic_ns()

    def __repr__(self) -> str:
        rank = f"rank {self.group.rank} of {self.group.size}"
        return f"<PrefillDelayer {rank}: {self._state.refusals} refusals in a row>"

    @property
    def decision(self) -> Decision | None:
        """What this pass has agreed on, None before it has."""
        return None if self._agreed is None else self._agreed.decision

    @property
    def stats(self) -> DelayerStats:
        """What it has decided so far."""
        return self._ledger.snapshot()

    async def negotiate(self, load: RankLoad, *, prefillable: bool = True) -> bool:
        """Agree on this pass, and say whether this rank may prefill in it.

        The first call of a pass exchanges; further ones give the same answer.

        Args:
            load: how things stand on this rank.
            prefillable: it has a prompt, and room to prefill it now. Find that out first: a
                rank that says so and then has no memory makes the others prefill alone.

        Returns:
            Whether it may; never if the pass was told that it has no prompt.

        Raises:
            RankLostError: other ranks are gone, or did not come in time.
            RankMismatchError: another rank does something else, or has other limits.
            RankBusyError: this rank has an exchange under way.
            RankGroupClosedError: the group failed, or an earlier exchange here did.
            ValueError: the load is negative, or no share.
        """
        if not self.limits.enabled:
            return prefillable
        if self._agreed is None or self._agreed.epoch != self.group.epoch:
            self._agreed = await self._agree(load, prefillable)
        return self._agreed.decision.allow and self._agreed.prefillable

    async def finish_pass(self, load: RankLoad, *, prefilled: int = 0) -> Decision | None:
        """End the pass; if nobody asked in it, exchange that there is no prompt here.

        Args:
            load: how things stood at the beginning of the pass.
            prefilled: prompts that this rank's prefill took, 0 for none.

        Returns:
            What the pass agreed on; None if the delayer is disabled.

        Raises:
            ValueError: something was prefilled that was not allowed.
            Exception: as ``negotiate``.
        """
        if not self.limits.enabled:
            return None
        agreed = self._agreed
        if prefilled and not (agreed and agreed.prefillable and agreed.decision.allow):
            raise ValueError(
                f"{prefilled} prompts were prefilled in a pass that did not allow it: {agreed}; "
                "prefill only after negotiate() has returned True"
            )
        if agreed is None:
            agreed = await self._agree(load, prefillable=False)
        self._agreed = None
        self._mark.prefilled(prefilled)
        self._ledger.finished(agreed.decision, executed=prefilled > 0)
        return agreed.decision

    def single_pass(self, load: RankLoad) -> "DelayerPass":
        """Make one pass in an ``async with`` block, which finishes it however it is left."""
        return DelayerPass(self, load)

    @property
    def has_failed(self) -> bool:
        """Whether an exchange was cut off, so that the group must be rebuilt first."""
        return self._failed_epoch == self.group.epoch

    async def _agree(self, load: RankLoad, prefillable: bool) -> _Agreed:
        self._check_ready()
        report = self._report(load, prefillable)
        epoch = self.group.epoch
        self._is_exchanging = True
        try:
            rows = await self.group.gather_info(
                _KIND, (*report, self._fingerprint), timeout=self._timeout
            )
            self._check_limits(rows)
        except RankBusyError:
            raise
        except BaseException:
            # Also a cancellation: the other ranks may have decided, or may wait for this one.
            self._failed_epoch = epoch
            self._agreed = None
            raise
        finally:
            self._is_exchanging = False
        return _Agreed(self._decide(rows), prefillable, epoch)

    def _check_ready(self) -> None:
        if self._is_exchanging:
            raise RankBusyError(f"{self!r} negotiates already; await that first")
        if self.has_failed:
            raise RankGroupClosedError(
                f"{self!r} was cut off in an exchange of epoch {self._failed_epoch} and does not "
                "know what the other ranks decided; rebuild the group"
            )
        if self._state_epoch != self.group.epoch:
            # Some ranks may have seen the last exchange before the failure, some not.
            self._state, self._state_epoch = DelayState(), self.group.epoch
            self._refused_at_ns = None

    def _report(self, load: RankLoad, prefillable: bool) -> RankReport:
        if load.running < 0 or load.queue < 0 or not 0 <= load.usage <= 1:
            raise ValueError(f"{load}: give counts from 0, and a usage between 0 and 1")
        now_ns = monotonic_ns()
        if load.queue > self._queue:
            self._grew_at_ns = now_ns
        self._queue = load.queue
        watermark = self.limits.low_watermark
        since_ns = now_ns if self._refused_at_ns is None else self._refused_at_ns
        return RankReport(
            prefillable=int(prefillable),
            force_allow=int(prefillable and watermark is not None and load.usage < watermark),
            running=load.running,
            max_prefill=self._mark.largest,
            queue=load.queue,
            waited_us=(now_ns - since_ns) // 1000,
            quiet_us=(now_ns - self._grew_at_ns) // 1000,
            resumes=int(prefillable and load.resumes),
        )

    def _check_limits(self, rows: tuple[tuple[int, ...], ...]) -> None:
        odd = tuple(rank for rank, row in enumerate(rows) if row[-1] != rows[0][-1])
        if odd:
            raise RankMismatchError(
                f"ranks {odd} have other limits of the delayer than rank 0; rank "
                f"{self.group.rank} has {self.limits}; give all ranks the same",
                odd,
            )

    def _decide(self, rows: tuple[tuple[int, ...], ...]) -> Decision:
        """Decide from what was gathered; does not wait, so that nothing is half done."""
        reports = [RankReport(*row[:-1]) for row in rows]
        decision, self._state = decide(reports, self._state, self.limits)
        if decision.allow:
            self._refused_at_ns = None
        elif self._refused_at_ns is None:
            self._refused_at_ns = monotonic_ns()
        self._ledger.decided(decision)
        return decision


class DelayerPass:
    """One pass of a ``PrefillDelayer``, in an ``async with`` block.

    An error or a cancellation inside the block finishes the pass with nothing prefilled, so
    that the other ranks, which know nothing of it, are not left waiting. That takes as long
    as an exchange may; a second cancellation cuts it off, and the delayer has failed.

    Attributes:
        prefilled: set it to how many prompts this rank's prefill took.
        decision: what the pass agreed on, once it is finished; None from a disabled delayer.
    """

    def __init__(self, delayer: PrefillDelayer, load: RankLoad) -> None:
        self._delayer = delayer
        self._load = load
        self.prefilled = 0
        self.decision: Decision | None = None

    async def negotiate(self) -> bool:
        """Say that this rank could prefill, and return whether it may."""
        return await self._delayer.negotiate(self._load)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self.decision = await self._delayer.finish_pass(self._load, prefilled=self.prefilled)
        elif isinstance(exc, Exception | asyncio.CancelledError) and not self._delayer.has_failed:
            try:
                self.decision = await self._delayer.finish_pass(self._load)
            except Exception as error:
                # What ended the block is what the caller must see, a cancellation above all.
                exc.add_note(f"the pass of the prefill delayer was not finished: {error!r}")
