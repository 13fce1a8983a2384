"""Texts under constraints made by hand, beside free ones, through an ``Engine``."""

import asyncio
from contextlib import aclosing
from typing import Any

from aio_sched.engine.engine import Engine
from aio_sched.engine.errors import RequestFailedError
from aio_sched.engine.requests import Request, SamplingParams
from aio_sched.testing import Scenario, Trial
from tests.aio_sched.engine.constrained.automata import Climbing, Stumbling
from tests.aio_sched.engine.tiny import CHUNK, assert_at_rest, rigged

__all__ = ["SHIPPED", "constrained", "constrained_with_aborts"]

_SIZES: dict[str, Any] = {"max_running": 3, "prefill_rows": 2, "chunk": CHUNK}


async def constrained(trial: Trial) -> list[Any]:
    """Continue more texts than there are slots, of which every second one is constrained."""
    params = [
        SamplingParams(6, temperature=1, seed=1, constraint=Climbing(2, 4)),
        SamplingParams(5, seed=2),
        SamplingParams(3, constraint=Climbing(4, 9)),
        SamplingParams(7, temperature=1, seed=3),
        SamplingParams(8, constraint=Stumbling(3)),
        SamplingParams(1, temperature=1, seed=4, constraint=Climbing()),
    ]
    return await _continue(trial, params, [100] * len(params))


async def constrained_with_aborts(trial: Trial) -> list[Any]:
    """Continue texts whose readers leave after some tokens, constrained or not."""
    climb, free = SamplingParams(9, constraint=Climbing(9, 12)), SamplingParams(9)
    return await _continue(trial, [climb, free, climb, climb, free], [1, 2, 2, 100, 1])


async def _continue(trial: Trial, params: list[SamplingParams], reads: list[int]) -> list[Any]:
    made = Engine(rigged(), trial.device, overlap=trial.overlap, **_SIZES)
    trial.watch(made.pipeline)
    trial.at_rest(lambda: assert_at_rest(made))
    async with made, asyncio.TaskGroup() as group:
        reading = []
        for number, each in enumerate(params):
            request = made.submit(bytes([1 + number, 2, 3, 4, 5][: 3 + number]), each)
            reading.append(group.create_task(_read(made, request, reads[number])))
            await asyncio.sleep(trial.dice.uniform(0.0, 0.003))
    return [task.result() for task in reading]


async def _read(engine: Engine, request: Request, num_tokens: int) -> tuple[bytes, str]:
    """Return what was read, and of a request that failed the reason."""
    read = bytearray()
    try:
        async with aclosing(engine.stream(request)) as tokens:
            for _ in range(num_tokens):
                if (token := await anext(tokens, None)) is not None:
                    read.append(token)
    except RequestFailedError as error:
        return bytes(read), repr(error.__cause__)
    return bytes(read), ""


SHIPPED: tuple[Scenario, ...] = (constrained, constrained_with_aborts)
