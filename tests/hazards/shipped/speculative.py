"""Speculative decoding, with tiny models: ``SHIPPED`` are its scenarios."""

import asyncio
from contextlib import aclosing
from functools import cache
from typing import Any

from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.requests import Request, SamplingParams
from aio_sched.speculative.drafter import Drafter
from aio_sched.speculative.engine import SpeculativeEngine
from aio_sched.speculative.heads import HeadsDrafter
from aio_sched.testing import Trial
from tests.aio_sched.engine.tiny import assert_at_rest
from tests.aio_sched.speculative.tiny import MuteDrafter, draft_model, engine_on
from tests.aio_sched.speculative.tiny_heads import tiny_heads

__all__ = [
    "SHIPPED",
    "speculative",
    "speculative_planned_behind_the_draft",
    "speculative_planned_in_between",
    "speculative_with_aborts",
    "speculative_with_heads",
    "speculative_without_host_lengths",
]


async def speculative(trial: Trial) -> Any:
    """Continue texts of several lengths, more than there are slots, that come one by one."""
    return await _served(trial, _engine(trial))


async def speculative_without_host_lengths(trial: Trial) -> Any:
    """The same, with a host that runs ahead and never knows how far a text has come."""
    return await _served(trial, _engine(trial, host_lengths="none"))


async def speculative_planned_behind_the_draft(trial: Trial) -> Any:
    """The same, with a drafter that does not say when it has read the shared cells."""
    return await _served(trial, _engine(trial, MuteDrafter(_draft()), host_lengths="none"))


async def speculative_planned_in_between(trial: Trial) -> Any:
    """The same, without a plan stream."""
    return await _served(trial, _engine(trial, plan="off"))


async def speculative_with_heads(trial: Trial) -> Any:
    """The same, drafted from hidden states that the model leaves behind prompts and verifies."""
    return await _served(trial, _engine(trial, HeadsDrafter(tiny_heads())))


async def speculative_with_aborts(trial: Trial) -> Any:
    """Continue texts whose readers leave after some tokens."""
    engine = _engine(trial)
    trial.at_rest(lambda: assert_at_rest(engine))
    async with engine:
        params = SamplingParams(max_tokens=12)
        requests = [engine.submit(bytes([1 + number, 2, 3]), params) for number in range(4)]
        return await asyncio.gather(*(_read(engine, each, 1 + 2 * each.id) for each in requests))


SHIPPED = (
    speculative,
    speculative_without_host_lengths,
    speculative_planned_behind_the_draft,
    speculative_planned_in_between,
    speculative_with_aborts,
    speculative_with_heads,
)


@cache
def _draft() -> ByteTransformer:
    return draft_model()


def _engine(trial: Trial, draft: Drafter | None = None, **options: Any) -> SpeculativeEngine:
    made = engine_on(
        trial.device, draft=draft or _draft(), chunk=8, overlap=trial.overlap, **options
    )
    trial.watch(made.pipeline)
    return made


async def _served(trial: Trial, engine: SpeculativeEngine) -> list[bytes]:
    trial.at_rest(lambda: assert_at_rest(engine))
    async with engine, asyncio.TaskGroup() as group:
        reading = []
        for number in range(4):
            # Prompts of one chunk and of two, and one whose text ends where the slot does.
            prompt = bytes(1 + place % 9 for place in range((3, 9, 5, 58)[number]))
            params = SamplingParams((3, 7, 11, 6)[number], temperature=number % 2, seed=number)
            reading.append(group.create_task(_read(engine, engine.submit(prompt, params))))
            await asyncio.sleep(trial.dice.uniform(0.0, 0.003))
    return [task.result() for task in reading]


async def _read(engine: SpeculativeEngine, request: Request, num_tokens: int = 100) -> bytes:
    async with aclosing(engine.stream(request)) as tokens:
        read = [
            token for _ in range(num_tokens) if (token := await anext(tokens, None)) is not None
        ]
    return bytes(read)
