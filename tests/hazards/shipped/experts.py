"""The engine with a mixture of experts, which returns what its layers chose."""

import asyncio
from contextlib import aclosing
from typing import Any

from aio_sched.engine.engine import Engine
from aio_sched.engine.experts import MixtureTransformer
from aio_sched.engine.requests import Request, SamplingParams
from aio_sched.testing import Scenario, Trial
from tests.aio_sched.engine.tiny import CHUNK, assert_at_rest
from tests.aio_sched.engine.tiny_experts import assert_routed_right, rigged_mixture

__all__ = ["SHIPPED", "experts_with_aborts"]

_STOPS = (None, b"\6", b"\1\6")


async def experts_with_aborts(trial: Trial) -> list[Any]:
    """Continue texts of several chunks, more than it has slots; some readers leave."""
    model = rigged_mixture()
    engine = Engine(
        model,
        trial.device,
        max_running=2,
        prefill_rows=2,
        chunk=CHUNK,
        overlap=trial.overlap,
        capture_experts=True,
    )
    trial.watch(engine.pipeline)
    trial.at_rest(lambda: assert_at_rest(engine))
    async with engine:
        async with asyncio.TaskGroup() as group:
            reading = []
            for number in range(5):
                params = SamplingParams(
                    max_tokens=3 + number,
                    temperature=number % 2,
                    seed=number,
                    stop=_STOPS[number % 3],
                )
                request = engine.submit(bytes([1 + number, 2, 3, 4, 5, 6][: 2 + number]), params)
                leaves_after = 2 if number == 3 else 100
                reading.append(group.create_task(_read(engine, request, leaves_after)))
                await asyncio.sleep(trial.dice.uniform(0.0, 0.003))
        await engine.drained()
    texts = [task.result() for task in reading]
    return [(text, _experts(model, request, len(text))) for text, request in texts]


async def _read(engine: Engine, request: Request, num_tokens: int) -> tuple[bytes, Request]:
    async with aclosing(engine.stream(request)) as tokens:
        read = [
            token for _ in range(num_tokens) if (token := await anext(tokens, None)) is not None
        ]
    return bytes(read), request


def _experts(model: MixtureTransformer, request: Request, num_tokens: int) -> list[Any]:
    """Return the rows of what was read; when a reader that leaves is heard of, time decides."""
    assert_routed_right(model, request)
    assert request.routed_experts is not None
    rows: list[Any] = request.routed_experts[: len(request.prompt) + num_tokens - 1].tolist()
    return rows


SHIPPED: tuple[Scenario, ...] = (experts_with_aborts,)
