"""The fence of what is captured, and a program that needs it."""

import asyncio
from typing import Any

from aio_sched.engine.engine import Engine
from aio_sched.engine.requests import SamplingParams
from aio_sched.testing import Trial
from tests.aio_sched.engine.tiny import CHUNK, read
from tests.aio_sched.engine.tiny_experts import rigged_mixture
from tests.hazards.fences.entry import Fence, Rewrite

__all__ = ["FENCES", "captured_experts"]


async def captured_experts(trial: Trial) -> Any:
    """Continue two texts and return the experts of their tokens."""
    engine = Engine(
        rigged_mixture(),
        trial.device,
        max_running=2,
        prefill_rows=2,
        chunk=CHUNK,
        overlap=trial.overlap,
        capture_experts=True,
    )
    async with engine:
        params = SamplingParams(max_tokens=6)
        requests = [engine.submit(bytes([1 + number, 2, 3]), params) for number in range(2)]
        await asyncio.gather(*(read(engine, request) for request in requests))
    return [request.routed_experts for request in requests]


FENCES = (
    Fence(
        "buffers/capture.py",
        "CaptureCache.take",
        "WAR: the next forward writes these rows while the copy stream",
        captured_experts,
        ("WAR", "capture.experts"),
        # The copy then reads the rows themselves.
        Rewrite("return part"),
    ),
)
