"""``DataParallelEngine``: one rank of a service whose ranks take their steps together."""

import asyncio
from types import TracebackType
from typing import Unpack

from aio_sched.config import SchedulerOptions
from aio_sched.engine.admission import Limits
from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.text_engine import TextEngine
from aio_sched.parallel.delayer import DelayerLimits
from aio_sched.parallel.group import RankGroup
from aio_sched.parallel.pipeline import DataParallelPipeline, RankStats
from streams.device import Device

__all__ = ["DataParallelEngine"]


class DataParallelEngine(TextEngine[DataParallelPipeline]):
    """Continues prompts on one of several ranks, all of which take each step together.

    Every rank makes one, with the same settings, and is given its own prompts. A rank without
    prompts sleeps as long as no other has any, and otherwise runs idle batches.

    A rank that is lost, or that does something else than the others, ends the requests of all
    ranks: they fail with ``RankLostError`` or ``RankMismatchError`` as their cause, and so
    does the block. A step that fails on one rank fails that rank's requests only.

    Leaving the block in good order tells the other ranks. For ``farewell_s`` the rank goes on
    taking part without work of its own; when all ranks want to go they part at once, and
    otherwise it goes alone, and the others rebuild the group and go on without it. A block
    that is left by an error tells nobody: to the others the rank is lost.

    Args:
        model: the built-in transformer, on ``device``.
        device: an open device; it stays open.
        group: of the ranks; the engine alone uses it, and leaves it at the end.
        max_running: requests that decode together; see ``Engine`` for this and the next.
        max_waiting: requests that may wait for a slot; one more is refused.
        prefill_rows: prompts that one prefill step reads on.
        chunk: bytes of each that it reads.
        overlap: False runs the same pipeline one step at a time.
        delayer: how prefills wait for those of other ranks; by default they do not.
        consecutive_prefill_overlap: False lets a prefill behind a prefill run alone, on all
            ranks, if any of them prefills.
        rank_check: compare what the ranks decide in each step, and name the first that
            differs.
        farewell_s: see above; 0 goes at once.
        options: the scheduler's.

    Raises:
        ValueError: a number out of range, or a model that is on another device or that
            does not write bytes.
    """

    def __init__(
        self,
        model: ByteTransformer,
        device: Device,
        group: RankGroup,
        *,
        max_running: int = 8,
        max_waiting: int = 1024,
        prefill_rows: int = 4,
        chunk: int = 64,
        overlap: bool = True,
        delayer: DelayerLimits | None = None,
        consecutive_prefill_overlap: bool = True,
        rank_check: bool = False,
        farewell_s: float = 5.0,
        **options: Unpack[SchedulerOptions],
    ) -> None:
        if farewell_s < 0:
            raise ValueError(f"farewell_s={farewell_s} is negative; 0 goes at once")
        pipeline = DataParallelPipeline(
            model,
            device,
            Limits(max_running, prefill_rows, chunk),
            group,
            depth=options.get("depth", 2),
            delayer=delayer,
            consecutive_prefill_overlap=consecutive_prefill_overlap,
            rank_check=rank_check,
        )
        super().__init__(pipeline, device, max_waiting=max_waiting, overlap=overlap, **options)
        self.farewell_s = farewell_s

    @property
    def rank_stats(self) -> RankStats:
        """What this rank did in step with the others."""
        return self.pipeline.rank_stats

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc is None:
                await self.pipeline.leave(self.farewell_s)
        finally:
            try:
                await super().__aexit__(exc_type, exc, traceback)
            finally:
                await self._parted()

    async def _parted(self) -> None:
        if (parting := self.pipeline.membership.parting) is not None:
            await asyncio.wait([parting])
            parting.result()
