"""The front of speculative decoding."""

from types import TracebackType
from typing import Self, Unpack

from aio_sched.config import SchedulerOptions
from aio_sched.engine.admission import Limits
from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.pipeline import check_model
from aio_sched.engine.text_engine import TextEngine
from aio_sched.errors import SchedulerClosedError
from aio_sched.speculative.drafter import ChainDrafter, Drafter
from aio_sched.speculative.heads import DraftHeads, HeadsDrafter
from aio_sched.speculative.pipeline import SpeculativePipeline
from aio_sched.speculative.policies import HostLengths, PlanPolicy
from aio_sched.speculative.stats import SpeculationStats
from streams.device import Device

__all__ = ["SpeculativeEngine"]


class SpeculativeEngine(TextEngine[SpeculativePipeline]):
    """Continues prompts like ``Engine``, several tokens to a step.

    A drafter guesses ``num_draft`` tokens of each request, the model verifies them in one
    forward, and a text gets those that the model would have written itself, and one more.
    That holds at any temperature, because what the model draws depends on a request's seed
    and the token's position only. A verify has one fixed shape, so the texts do not depend
    on the drafter, on what it guesses, on the policies or on other requests. ``Engine``
    computes with another shape: its logits may differ in the last bits, and where two tokens
    are as likely as that, its text may.

    Args:
        model: the built-in transformer, on ``device``.
        draft: what drafts for it: a smaller model of the same vocabulary, heads that were
            trained for it, or a ``Drafter`` that no other engine uses.
        device: an open device; it stays open.
        num_draft: tokens to draft for each request and step; of heads one for each layer.
        plan: where verifies are planned, a ``PlanPolicy`` by name.
        host_lengths: what the host knows of lengths, a ``HostLengths`` by name.
        max_running: as for ``Engine``.
        max_waiting: as for ``Engine``.
        prefill_rows: as for ``Engine``.
        chunk: as for ``Engine``.
        overlap: as for ``Engine``.
        options: the scheduler's; with ``strict``, an event of an earlier step that a plan
            finds is an error. Engines that share a device each need their own ``name``.

    Raises:
        DraftModelError: the draft model has another vocabulary, a smaller context, or is on
            another device; heads have another width, or fewer layers than ``num_draft``.
        ValueError: as for ``Engine``, or ``num_draft`` is below 1, or no such policy.
    """

    def __init__(
        self,
        model: ByteTransformer,
        draft: ByteTransformer | DraftHeads | Drafter,
        device: Device,
        *,
        num_draft: int = 4,
        plan: str = "targeted",
        host_lengths: str = "exact",
        max_running: int = 8,
        max_waiting: int = 1024,
        prefill_rows: int = 4,
        chunk: int = 64,
        overlap: bool = True,
        **options: Unpack[SchedulerOptions],
    ) -> None:
        limits = Limits(max_running, prefill_rows, chunk)
        check_model(model, device, limits)
        if num_draft < 1:
            raise ValueError(f"num_draft={num_draft} is below 1; use Engine to draft nothing")
        pipeline = SpeculativePipeline(
            model,
            _drafter_of(draft),
            device,
            limits,
            num_draft=num_draft,
            plan=PlanPolicy.named(plan, "plan"),
            host_lengths=HostLengths.named(host_lengths, "host_lengths"),
            depth=options.get("depth", 2),
            strict=options.get("strict", False),
            name=f"{prefix}." if (prefix := options.get("name", "")) else "",
        )
        try:
            super().__init__(pipeline, device, max_waiting=max_waiting, overlap=overlap, **options)
        except BaseException:
            pipeline.close()
            raise

    @property
    def speculation(self) -> SpeculationStats:
        """What drafting has achieved so far."""
        return self.pipeline.stats

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except SchedulerClosedError:
            raise  # it runs, or has run
        except BaseException:
            self.pipeline.close()
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await super().__aexit__(exc_type, exc, traceback)
        # Not if that raised: then the device may still be at work, and is given up as a whole.
        self.pipeline.close()


def _drafter_of(draft: ByteTransformer | DraftHeads | Drafter) -> Drafter:
    if isinstance(draft, ByteTransformer):
        return ChainDrafter(draft)
    return HeadsDrafter(draft) if isinstance(draft, DraftHeads) else draft
