"""The engine: continuous batching over the built-in language model."""

from typing import Unpack

from aio_sched.config import SchedulerOptions
from aio_sched.engine.admission import Limits
from aio_sched.engine.constrained.pipeline import ConstrainedPipeline
from aio_sched.engine.expert_pipeline import ExpertPipeline
from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.pipeline import GenerationPipeline
from aio_sched.engine.text_engine import TextEngine
from streams.device import Device

__all__ = ["Engine"]


class Engine(TextEngine[GenerationPipeline]):
    """Continues prompts with a language model, in continuous batches.

    Requests join and leave the batch between steps. Use it in ``async with``; leaving
    the block ends what is still running as aborted.

    Args:
        model: the built-in transformer, on ``device``.
        device: an open device; it stays open.
        max_running: requests that decode together; further ones wait.
        max_waiting: requests that may wait for a slot; one more is refused.
        prefill_rows: prompts that one prefill step reads on.
        chunk: bytes of each that it reads; a longer prompt takes several steps, and the
            running requests decode between them.
        overlap: False runs the same pipeline one step at a time.
        capture_experts: fill ``Request.routed_experts``; needs a model with experts, and its
            requests can have no constraint.
        options: the scheduler's, ``depth=3`` for one; see ``OverlapScheduler``. Engines
            that share a device each need their own ``name``.

    Raises:
        ValueError: a number out of range, or a model that is on another device or that
            does not write bytes, or has no experts to capture.
    """

    def __init__(
        self,
        model: ByteTransformer,
        device: Device,
        *,
        max_running: int = 8,
        max_waiting: int = 1024,
        prefill_rows: int = 4,
        chunk: int = 64,
        overlap: bool = True,
        capture_experts: bool = False,
        **options: Unpack[SchedulerOptions],
    ) -> None:
        limits = Limits(max_running, prefill_rows, chunk)
        depth, name = options.get("depth", 2), options.get("name", "")
        pipeline: GenerationPipeline = (
            ExpertPipeline(model, device, limits, depth=depth)
            if capture_experts
            else ConstrainedPipeline(model, device, limits, depth=depth, name=name)
        )
        super().__init__(pipeline, device, max_waiting=max_waiting, overlap=overlap, **options)
