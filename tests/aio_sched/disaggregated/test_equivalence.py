"""Where a text is written changes no token: random traces on one engine and on two sides."""

import asyncio
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aio_sched.engine.errors import RequestAbortedError
from aio_sched.engine.requests import FinishReason, Request, SamplingParams
from aio_sched.engine.text_engine import TextEngine
from tests.aio_sched.disaggregated.sides import assert_both_at_rest, both
from tests.aio_sched.engine.test_equivalence import params, prompts
from tests.aio_sched.engine.tiny import assert_ended_in_time, rigged, running

MODEL = rigged()


@dataclass(frozen=True)
class Arrival:
    """One request of a trace.

    Attributes:
        turns: turns of the event loop before it comes.
        leaves_after: tokens after which its reader leaves; None for one that stays.
    """

    turns: int
    prompt: bytes
    params: SamplingParams
    leaves_after: int | None


arrivals = st.builds(
    Arrival,
    turns=st.integers(0, 40),
    prompt=prompts,
    params=params,
    leaves_after=st.one_of(st.none(), st.none(), st.integers(0, 6)),
)
traces = st.lists(arrivals, min_size=1, max_size=6)


async def play(trace: list[Arrival], engine: TextEngine[Any]) -> list[Request]:
    """Let all requests come; return them as they ended."""
    requests, reading = [], []
    for arrival in trace:
        for _ in range(arrival.turns):
            await asyncio.sleep(0)
        requests.append(engine.submit(arrival.prompt, arrival.params))
        reading.append(asyncio.create_task(read(engine, requests[-1], arrival.leaves_after)))
    await asyncio.gather(*reading)
    await engine.drained()
    return requests


async def read(engine: TextEngine[Any], request: Request, leaves_after: int | None) -> None:
    """Read a request to its end, or leave it."""
    with suppress(RequestAbortedError):
        async with aclosing(engine.stream(request)) as tokens:
            num_read = 0
            while num_read != leaves_after and await anext(tokens, None) is not None:
                num_read += 1


@given(traces, st.integers(1, 5), st.integers(0, 3), st.sampled_from([1, 2, 3]))
@settings(
    max_examples=30, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_two_sides_write_the_texts_of_one_engine(
    trace: list[Arrival], max_running: int, queue: int, depth: int
) -> None:
    """Each request ends once and rightly; one that was left has a beginning of its text."""
    async with both(MODEL, max_running=max_running, queue=queue, depth=depth, strict=True) as sides:
        apart = await play(trace, sides.engine)
        await sides.worker.pipeline.is_empty.wait()
        assert_both_at_rest(sides)
    async with running(MODEL, max_running=max_running) as engine:
        together = await play(trace, engine)
    for arrival, one, other in zip(trace, apart, together, strict=True):
        assert_ended_in_time(one)
        if arrival.leaves_after is None:
            assert one.output == other.output
            assert one.finish is other.finish is not FinishReason.ABORTED
        else:
            longer, shorter = sorted((one.output, other.output), key=len, reverse=True)
            assert longer.startswith(shorter)
            assert len(shorter) >= min(arrival.leaves_after, len(longer))
