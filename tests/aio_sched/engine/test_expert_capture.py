"""The engine returns with a text which experts its tokens were given."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from aio_sched.engine.constrained.grammar import Regex
from aio_sched.engine.engine import Engine
from aio_sched.engine.errors import ConstraintError, RequestFailedError
from aio_sched.engine.requests import FinishReason, Request, SamplingParams
from buffers.capture import CaptureCache
from buffers.errors import CaptureOverflowError, CaptureRowsError
from streams.device import open_device
from tests.aio_sched.engine.test_equivalence import StepClock, Trace, drive, traces
from tests.aio_sched.engine.tiny import LETTERS, assert_at_rest, read, rigged, running
from tests.aio_sched.engine.tiny_experts import (
    assert_routed_right,
    num_read,
    rigged_mixture,
    scores_of,
    wins,
)
from tests.aio_sched.pipelines import until

MODEL = rigged_mixture()
PROMPT = LETTERS[:6]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute the reference with one thread: so small a model is slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


async def play(trace: Trace, *, overlap: bool) -> list[Request]:
    """Run a trace through one schedule; return the requests as they ended."""
    clock = StepClock()
    async with running(
        MODEL,
        max_running=trace.max_running,
        overlap=overlap,
        depth=trace.depth,
        strict=True,
        monitors=(clock,),
        capture_experts=True,
    ) as engine:
        clients = await drive(trace, engine, clock)
        await engine.drained()
        assert_at_rest(engine)
        for client in clients:
            await client.ended()
    return [client.request for client in clients]


@given(traces)
@settings(
    max_examples=12,  # on each of two event loops
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
async def test_random_traces_give_the_same_experts_overlapped_and_sequentially(
    trace: Trace,
) -> None:
    """Those of a plain forward; aborted requests have the rows of what they have."""
    overlapped = await play(trace, overlap=True)
    sequential = await play(trace, overlap=False)
    for one, other in zip(overlapped, sequential, strict=True):
        rows = [each.routed_experts for each in (one, other) if each.routed_experts is not None]
        for request in (one, other):
            if request.routed_experts is None:
                assert request.finish is FinishReason.ABORTED
                assert not request.output
            else:
                assert_routed_right(MODEL, request)
        if len(rows) == 2:
            common = min(map(len, rows))
            assert torch.equal(rows[0][:common], rows[1][:common])


async def finished(params: SamplingParams, prompt: bytes = PROMPT, **options: Any) -> Request:
    """Continue one prompt to its end."""
    async with running(MODEL, capture_experts=True, **options) as engine:
        request = engine.submit(prompt, params)
        await read(engine, request)
    assert_routed_right(MODEL, request)
    return request


async def test_last_sampled_token_has_no_row() -> None:
    """No forward has read it; with one token to write, only the prompt was."""
    request = await finished(SamplingParams(max_tokens=1))
    assert request.finish is FinishReason.LENGTH
    assert request.routed_experts is not None
    assert len(request.routed_experts) == len(PROMPT)


async def test_end_of_text_counts_as_the_last_token() -> None:
    """All that was written has been read, when the end was sampled."""
    for seed in range(20):
        request = await finished(SamplingParams(max_tokens=30, temperature=1.0, seed=seed))
        if request.finish is FinishReason.END_OF_TEXT and request.output:
            break
    assert request.finish is FinishReason.END_OF_TEXT
    assert request.routed_experts is not None
    assert len(request.routed_experts) == len(PROMPT) + len(request.output)


async def test_steps_past_the_end_of_a_text_add_no_rows() -> None:
    """Two further tokens are on the device when a stop text ends it; its neighbour goes on."""
    whole = await finished(SamplingParams(max_tokens=12), depth=3)
    stop = bytes(whole.output[4:6])
    async with running(MODEL, depth=3, capture_experts=True) as engine:
        request = engine.submit(PROMPT, SamplingParams(max_tokens=12, stop=stop))
        other = engine.submit(PROMPT, SamplingParams(max_tokens=12))
        await asyncio.gather(read(engine, request), read(engine, other))
    assert request.finish is FinishReason.STOP
    assert len(request.output) < len(other.output) == 12
    assert whole.routed_experts is not None
    for each in (request, other):
        assert each.routed_experts is not None
        assert torch.equal(each.routed_experts, whole.routed_experts[: num_read(each)])


async def test_prompt_in_many_chunks_has_the_rows_of_one() -> None:
    """Where a chunk ends makes no difference to a choice."""
    prompt = LETTERS * 3
    params = SamplingParams(max_tokens=4)
    one, other = [await finished(params, prompt, chunk=chunk) for chunk in (4, 32)]
    assert one.output == other.output
    for request in (one, other):
        assert request.routed_experts is not None
        assert wins(scores_of(MODEL, prompt + bytes(one.output[:-1])), request.routed_experts)


async def test_request_aborted_in_its_prefill_has_no_experts() -> None:
    """And the next owner of its slot has only its own."""
    model = rigged_mixture()
    async with running(model, max_running=1, capture_experts=True) as engine:
        held = model.hold(1)
        first = engine.submit(LETTERS * 2, SamplingParams(max_tokens=4))
        second = engine.submit(PROMPT, SamplingParams(max_tokens=4))
        await until(held.started.is_set)
        engine.abort(first)
        held.release()
        await read(engine, second)
    assert first.routed_experts is None
    assert_routed_right(model, second)


async def test_failed_request_has_no_experts_and_the_next_one_has() -> None:
    """A step that breaks in the model hands over nothing."""
    model = rigged_mixture()
    async with running(model, capture_experts=True) as engine:
        model.fail(2, ArithmeticError("broken"))
        first = engine.submit(PROMPT, SamplingParams(max_tokens=8))
        with pytest.raises(RequestFailedError, match="broken"):
            await read(engine, first)
        second = engine.submit(PROMPT, SamplingParams(max_tokens=8))
        await read(engine, second)
    assert first.routed_experts is None
    assert_routed_right(model, second)


async def test_aborted_text_has_the_rows_of_what_was_written() -> None:
    """Its reader left after two tokens."""
    async with running(MODEL, capture_experts=True) as engine:
        request = engine.submit(PROMPT, SamplingParams(max_tokens=12))
        async with aclosing(engine.stream(request)) as tokens:
            assert [await anext(tokens), await anext(tokens)]
        await engine.drained()
    assert request.finish is FinishReason.ABORTED
    assert_routed_right(MODEL, request)


async def test_row_that_went_astray_fails_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place off by one is no gap that somebody finds later: the text ends in an error."""
    place = CaptureCache.place

    def off_by_one(self: CaptureCache, slots: Tensor, positions: Tensor) -> None:
        place(self, slots, positions + (positions == 8))

    monkeypatch.setattr(CaptureCache, "place", off_by_one)
    async with running(MODEL, capture_experts=True) as engine:
        request = engine.submit(PROMPT, SamplingParams(max_tokens=12))
        with pytest.raises(RequestFailedError, match=r"positions \[9\] instead of \[8\]") as caught:
            await read(engine, request)
    assert isinstance(caught.value.__cause__, CaptureRowsError)
    assert len(request.output) == 3
    assert request.routed_experts is None


async def test_layer_that_reads_too_few_rows_fails_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows in order but too few for the tokens: found before the token that follows."""
    place = CaptureCache.place

    def without_the_last(self: CaptureCache, slots: Tensor, positions: Tensor) -> None:
        place(self, slots * (positions != len(PROMPT) - 1), positions)

    monkeypatch.setattr(CaptureCache, "place", without_the_last)
    async with running(MODEL, capture_experts=True) as engine:
        request = engine.submit(PROMPT, SamplingParams(max_tokens=12))
        with pytest.raises(RequestFailedError, match="has 5 captured rows for 6 tokens"):
            await read(engine, request)
    assert not request.output


async def test_batch_larger_than_the_cache_fails_its_requests() -> None:
    """It does not write beyond, and does not cut."""
    async with running(MODEL, capture_experts=True) as engine:
        engine.pipeline.capture.max_rows = 1  # type: ignore[attr-defined]  # of ExpertPipeline
        request = engine.submit(PROMPT, SamplingParams(max_tokens=2))
        with pytest.raises(RequestFailedError, match="does not fit capture cache") as caught:
            await read(engine, request)
    assert isinstance(caught.value.__cause__, CaptureOverflowError)


async def test_engine_that_was_not_asked_captures_nothing() -> None:
    """And writes the same text."""
    captured = await finished(SamplingParams(max_tokens=8))
    async with running(MODEL) as engine:
        request = engine.submit(PROMPT, SamplingParams(max_tokens=8))
        await read(engine, request)
    assert request.routed_experts is None
    assert request.output == captured.output


def test_model_without_experts_is_refused() -> None:
    """With the name of one that has."""
    with (
        open_device("cpu") as device,
        pytest.raises(ValueError, match=r"RiggedModel has no experts.*load_mixture\(\)"),
    ):
        Engine(rigged(), device, capture_experts=True)


async def test_constraint_is_refused() -> None:
    """The tokens under a constraint are read by other steps than those that sample them."""
    async with running(MODEL, capture_experts=True) as engine:
        with pytest.raises(
            ConstraintError, match=r"ExpertPipeline .* made without capture_experts"
        ):
            engine.submit(PROMPT, SamplingParams(max_tokens=4, constraint=Regex("a*")))
