"""The fences of the hand-over, and programs that need one of them each."""

from typing import Any

import torch

from aio_sched.disaggregated.decode import DecodePipeline
from aio_sched.disaggregated.messages import HandOver
from aio_sched.disaggregated.prefill import PrefillPipeline
from aio_sched.engine.admission import Limits
from aio_sched.engine.pipeline import Batch
from aio_sched.engine.requests import FinishReason, Request, SamplingParams
from aio_sched.stages import HostCopy, Step
from aio_sched.testing import Trial
from aio_sched.wakeup import Wakeup
from buffers.errors import StagingBusyError
from tests.aio_sched.engine.tiny import CHUNK, TINY, rigged
from tests.hazards.fences.entry import Fence, Rewrite

__all__ = ["FENCES"]

_LIMITS = Limits(max_running=2, prefill_rows=2, chunk=CHUNK)
_PARAMS = SamplingParams(max_tokens=6)


async def rows_handed_over(trial: Trial) -> Any:
    """Read prompts and hand their rows over; more prompts than slots."""
    pipeline = PrefillPipeline(rigged(), trial.device, _LIMITS)
    pipeline.granted(6)
    async with trial.scheduler(pipeline):
        for request in _requests():
            pipeline.add(request)
        pipeline.wake()
        while pipeline.waiting or pipeline.running:
            await pipeline.news.wait()
    return [request.finish for request in pipeline.away.values()]


class Leaving(PrefillPipeline):
    """Everybody leaves while the prefill is on the device, and nobody looks at what it gave."""

    async def forward(self, step: Step, inputs: Batch) -> HostCopy:
        """Abort all."""
        output = await super().forward(step, inputs)
        for request in inputs.requests:
            self.finish(request, FinishReason.ABORTED)
        return output

    async def publish(self, step: Step, inputs: Batch, output: HostCopy) -> None:
        """Deliver nothing."""


async def rows_of_those_who_left(trial: Trial) -> Any:
    """Give slots back whose rows are still copied."""
    pipeline = Leaving(rigged(), trial.device, _LIMITS)
    pipeline.granted(6)
    async with trial.scheduler(pipeline):
        for request in _requests():
            pipeline.add(request)
        pipeline.wake()
        await pipeline.is_empty.wait()


class Ending(DecodePipeline):
    """Everybody leaves with the first decode step on the device."""

    async def forward(self, step: Step, inputs: Batch) -> HostCopy:
        """Abort all."""
        output = await super().forward(step, inputs)
        for request in inputs.requests:
            self.finish(request, FinishReason.ABORTED)
        return output


async def slots_taken_again(trial: Trial) -> Any:
    """Upload rows to slots whose former owners' last step is on the device."""
    return await _arrive(trial, Ending(rigged(), trial.device, 2))


async def rows_taken_over(trial: Trial) -> Any:
    """Upload rows and decode from them."""
    return await _arrive(trial, DecodePipeline(rigged(), trial.device, 2))


async def uploads_broken_off(trial: Trial) -> Any:
    """Break off a prepare that has uploaded rows, and take the slot again."""
    pipeline = DecodePipeline(rigged(), trial.device, 2)
    upload, num_calls = pipeline._decode_staging.upload, 0

    def failing(*args: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls % 2:
            raise StagingBusyError("of the test")
        return upload(*args)

    setattr(pipeline._decode_staging, "upload", failing)  # noqa: B010 - a fault
    return await _arrive(trial, pipeline)


async def _arrive(trial: Trial, pipeline: DecodePipeline) -> Any:
    news = Wakeup()
    async with trial.scheduler(pipeline):
        arrived = [pipeline.arrive(_handed(number), news) for number in range(4)]
        pipeline.wake()
        await pipeline.is_empty.wait()
    return [request.finish for request in arrived]


def _requests() -> list[Request]:
    return [Request(number, bytes([1 + number, 2, 3]), _PARAMS) for number in range(6)]


def _handed(number: int) -> HandOver:
    shape = (3, TINY.num_layers, TINY.num_heads, TINY.head_dim)
    prompt = bytes([1 + number, 2, 3])
    return HandOver(number, prompt, _PARAMS, 4, torch.ones(shape), torch.ones(shape))


_PREFILL, _DECODE = "aio_sched/disaggregated/prefill.py", "aio_sched/disaggregated/decode.py"
_UNORDERED = """
from buffers.transfer import copy_to_host
rows = step.watch(copy_to_host(step.copy_stream, self._finished_rows(inputs)))
return step.copy_to_host((tokens, rows), reused=False)
"""
_UNWATCHED = """
from buffers.transfer import copy_to_host
rows = copy_to_host(step.copy_stream, (tokens, self._finished_rows(inputs)))
return HostCopy(step, rows, 0)
"""
_ON_ANOTHER_STREAM = """
step.watch(step.copy_stream.launch(
    self._fill_slot, request.slot.index, request.first_token, keys, values,
    writes=self._rows((request.slot,)),
))
"""
_CLAIM_ENDS_AT_ONCE = Rewrite(
    "self._unclaim(requests)",
    file="aio_sched/engine/request_pipeline.py",
    function="RequestPipeline._claim",
    begins="step.when_done(",
)

FENCES = (
    Fence(
        _PREFILL,
        "PrefillPipeline.forward",
        "RAW: the copy reads KV rows",
        rows_handed_over,
        ("RAW", "part of cache.keys: tensor (3, 2, 2, 8) float32"),
        Rewrite(_UNORDERED),
    ),
    Fence(
        _PREFILL,
        "PrefillPipeline.forward",
        "WAR: a next owner's prefill rewrites rows that the copy reads",
        rows_of_those_who_left,
        ("early_return", "cache.keys"),
        Rewrite(_UNWATCHED),
    ),
    Fence(
        _DECODE,
        "DecodePipeline._upload",
        "WAR: a next owner's rows go where the upload",
        uploads_broken_off,
        ("early_return", "cache.keys"),
    ),
    Fence(
        _DECODE,
        "DecodePipeline._upload_rows",
        "RAW: decode reads the rows and the token",
        rows_taken_over,
        ("RAW", "cache.keys"),
        Rewrite(_ON_ANOTHER_STREAM),
    ),
    Fence(
        _DECODE,
        "DecodePipeline._upload_rows",
        "WAR: it rewrites rows of the slot's former owner",
        slots_taken_again,
        ("early_return", "cache.keys"),
        _CLAIM_ENDS_AT_ONCE,
    ),
)
