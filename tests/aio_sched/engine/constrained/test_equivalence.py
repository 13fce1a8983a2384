"""Constrained requests write what a plain loop writes, whatever comes and goes beside them."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aio_sched.engine.admission import Limits
from aio_sched.engine.constrained.constraints import Constraint
from aio_sched.engine.constrained.grammar import Regex
from aio_sched.engine.requests import FinishReason, Request, SamplingParams
from tests.aio_sched.engine.constrained.automata import Climbing
from tests.aio_sched.engine.constrained.oracle import written_alone
from tests.aio_sched.engine.test_equivalence import MODEL, Arrival, Trace, aborts, play, prompts
from tests.aio_sched.engine.tiny import CHUNK, assert_ended_in_time, read, running

CONSTRAINTS: tuple[Constraint | None, ...] = (
    None,
    None,
    Climbing(),
    Climbing(3, 3),
    Climbing(0, 30),
    Regex(r"\x01\x02?[\x03-\x09]{1,4}"),
    Regex(r"(\x05\x06|\x07)*\x08"),
    Regex(""),
)

params = st.builds(
    SamplingParams,
    max_tokens=st.sampled_from([1, 2, 3, 4, 8, 16]),
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 5),
    stop=st.sampled_from([None, None, None, b"\6", b"\2\3"]),
    constraint=st.sampled_from(CONSTRAINTS),
)
arrivals = st.builds(
    Arrival,
    at=st.integers(0, 12),
    turns=st.integers(0, 5),
    prompt=prompts,
    params=params,
    abort=st.one_of(st.none(), st.none(), aborts),
)
traces = st.builds(
    Trace,
    max_running=st.integers(1, 5),
    depth=st.sampled_from([2, 2, 1, 3]),
    arrivals=st.lists(arrivals, min_size=1, max_size=6).map(tuple),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with one thread: so small a model is slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_as_alone(trace: Trace, request: Request) -> None:
    """What is there of a text is what the plain loop writes; all of it if it was not aborted."""
    limits = Limits(trace.max_running, prefill_rows=2, chunk=CHUNK)
    text = written_alone(MODEL, request.prompt, request.params, limits)
    assert text.output.startswith(bytes(request.output))
    if request.finish is not FinishReason.ABORTED:
        assert (bytes(request.output), request.finish) == (text.output, text.finish)


def assert_meets_constraint(request: Request) -> None:
    """A text that ended by itself is one of those that were asked for."""
    constraint, text = request.params.constraint, bytes(request.output)
    if isinstance(constraint, Climbing):
        assert constraint.is_begun_by(text)
        assert request.finish is not FinishReason.END_OF_TEXT or constraint.is_met_by(text)


async def check(trace: Trace) -> None:
    """Play a trace in both schedules."""
    for overlap in (True, False):
        for request in await play(trace, overlap=overlap):
            assert_ended_in_time(request)
            assert_as_alone(trace, request)
            assert_meets_constraint(request)


@given(traces)
@settings(
    max_examples=15,  # on each of two event loops
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
async def test_random_traces_give_the_texts_of_a_plain_loop(trace: Trace) -> None:
    """Overlapped and one by one, token for token, under any mixture of constraints."""
    await check(trace)


@pytest.mark.slow
@given(traces)
@settings(
    max_examples=500,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
async def test_many_random_traces_give_the_texts_of_a_plain_loop(trace: Trace) -> None:
    """The same, more often."""
    await check(trace)


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "sequential"])
async def test_free_texts_are_the_same_without_constrained_neighbours(overlap: bool) -> None:
    """Greedy or drawn, in whatever slots."""
    free = [SamplingParams(12, temperature=each % 2, seed=each) for each in range(4)]
    texts = []
    for neighbours in (2, 0):
        async with running(MODEL, max_running=3, overlap=overlap) as engine:
            climb = SamplingParams(9, temperature=1, constraint=Climbing(5, 9))
            for number in range(neighbours):
                engine.submit(bytes([1 + number]), replace(climb, seed=number))
            requests = [engine.submit(bytes([3 + n, 4, 5]), each) for n, each in enumerate(free)]
            texts.append([await read(engine, request) for request in requests])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 2
