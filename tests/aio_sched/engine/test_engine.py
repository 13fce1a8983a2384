"""The engine gives the right tokens, refuses what it cannot serve, and lives on."""

from typing import Any

import pytest

from aio_sched.engine.engine import Engine
from aio_sched.engine.errors import EngineBusyError, PromptError, RequestBusyError
from aio_sched.engine.model import EOS, ByteTransformer, ModelConfig
from aio_sched.engine.requests import FinishReason, SamplingParams
from aio_sched.errors import SchedulerClosedError
from streams.device import open_device
from tests.aio_sched.engine.tiny import (
    CHUNK,
    LETTERS,
    TINY,
    assert_at_rest,
    assert_right,
    read,
    rigged,
    running,
)

both = pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "sequential"])

PROMPT = LETTERS[:3]


def prompt_of(length: int) -> bytes:
    """Write a prompt."""
    return bytes(LETTERS[(length + i * i) % len(LETTERS)] for i in range(length))


@both
async def test_texts_are_those_of_a_plain_forward(overlap: bool) -> None:
    """Prompts around the chunk's size, more than there are slots, greedy and drawn."""
    model = rigged()
    lengths = [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 1]
    async with running(model, overlap=overlap, strict=True) as engine:
        requests = [
            engine.submit(prompt_of(length), SamplingParams(12, temperature, seed=length))
            for length in lengths
            for temperature in (0.0, 0.5, 1.0)
        ]
        texts = [await read(engine, request) for request in requests]
        await engine.drained()
        assert_at_rest(engine)
        assert engine.scheduler.guard.num_blocked == 0
    assert texts == [request.output for request in requests]
    ends = {request.finish for request in requests}
    assert ends == {FinishReason.LENGTH, FinishReason.END_OF_TEXT}, "the trace must have both"
    for request in requests:
        assert_right(model, request)


@pytest.mark.parametrize(("length", "num_steps"), [(1, 1), (CHUNK, 1), (CHUNK + 1, 2), (9, 3)])
async def test_one_token_costs_no_decode(length: int, num_steps: int) -> None:
    """The last chunk of a prompt samples the first token, and the text may end with it."""
    model = rigged()
    async with running(model) as engine:
        request = engine.submit(prompt_of(length), SamplingParams(max_tokens=1))
        assert len(await read(engine, request)) == 1
        await engine.drained()
    assert model.kinds == num_steps * ["prefill"]
    assert_right(model, request)


@both
async def test_prompt_may_fill_the_context(overlap: bool) -> None:
    """The last token that the model can place is written and right; one more is refused."""
    model = rigged()
    longest = prompt_of(TINY.max_len - 5)
    async with running(model, overlap=overlap) as engine:
        request = engine.submit(longest, SamplingParams(max_tokens=5))
        await read(engine, request)
        with pytest.raises(PromptError, match=f"{TINY.max_len - 5} tokens and max_tokens=6 exceed"):
            engine.submit(longest, SamplingParams(max_tokens=6))
    assert_right(model, request)


async def test_reused_slot_gives_the_text_of_a_fresh_engine() -> None:
    """What a longer former owner left in the slot, tokens or keys, has no effect."""
    params = SamplingParams(12, temperature=0.5, seed=3)
    async with running(rigged(), max_running=1) as engine:
        fresh = await read(engine, engine.submit(PROMPT, params))
    async with running(rigged(), max_running=1) as engine:
        await read(engine, engine.submit(prompt_of(40), SamplingParams(12)))
        assert await read(engine, engine.submit(PROMPT, params)) == fresh


async def test_text_depends_on_the_seed_and_on_no_neighbour() -> None:
    """The same request gives the same text alone and in a crowd; another seed another text."""
    params = [SamplingParams(12, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    async with running(rigged(), max_running=6) as engine:
        [alone] = [await read(engine, engine.submit(PROMPT, params[0]))]
        for seed in range(3):
            engine.submit(prompt_of(7 + seed), SamplingParams(12, temperature=1.0, seed=seed))
        crowd = [engine.submit(PROMPT, each) for each in params]
        same, again, other = [await read(engine, request) for request in crowd]
    assert alone == same == again
    assert other != alone


@both
@pytest.mark.parametrize("first", [0, 3])
async def test_stop_ends_the_text_although_later_tokens_are_on_the_device(
    overlap: bool, first: int
) -> None:
    """What overlap has sampled beyond the stop is not delivered, and disturbs nobody."""
    model = rigged()
    async with running(model, overlap=overlap) as engine:
        whole = await read(engine, engine.submit(PROMPT, SamplingParams(10)))
        stop = whole[first : first + 2]
        stopped = engine.submit(PROMPT, SamplingParams(10, stop=stop))
        neighbour = engine.submit(PROMPT, SamplingParams(10))
        assert await read(engine, stopped) == whole[: whole.index(stop) + 2]
        assert await read(engine, neighbour) == whole
    assert stopped.finish is FinishReason.STOP


async def test_complete_and_generate_take_text_and_bytes() -> None:
    """The conveniences give what ``submit`` and ``stream`` give."""
    params = SamplingParams(8)
    async with running(rigged()) as engine:
        text = await read(engine, engine.submit("\1\2\3", params))
        assert bytes([token async for token in engine.generate(b"\1\2\3", params)]) == text
        assert await engine.complete("\1\2\3", params) == text.decode()


async def test_slow_reader_holds_up_nobody_and_misses_nothing() -> None:
    """Unread tokens wait in the request, ``max_tokens`` at most, and outlive the engine."""
    model = rigged()
    async with running(model) as engine:
        unread = engine.submit(PROMPT, SamplingParams(9))
        await read(engine, engine.submit(PROMPT, SamplingParams(20)))
        await engine.drained()
        assert len(unread.unread) == 9
    assert await read(engine, unread) == unread.output
    assert not unread.unread


async def test_second_reader_is_refused_and_the_first_one_reads_on() -> None:
    """Tokens go to one reader; a second one would take them away from it."""
    async with running(rigged()) as engine:
        request = engine.submit(PROMPT, SamplingParams(6))
        first = engine.stream(request)
        tokens = [await anext(first)]
        with pytest.raises(RequestBusyError, match=f"request {request.id} has a reader already"):
            await read(engine, request)
        tokens += [token async for token in first]
    assert bytes(tokens) == request.output
    assert request.finish is FinishReason.LENGTH


async def test_engines_share_a_device_under_their_own_names() -> None:
    """Each has its own streams; without names the second one says what is wrong."""
    with open_device("cpu") as device:
        one, two, nameless = (Engine(rigged(), device, name=name) for name in ("one", "two", "one"))
        async with one, two:
            with pytest.raises(ValueError, match=r"stream name 'one\.schedule' is taken"):
                async with nameless:
                    pass
            requests = [engine.submit(PROMPT, SamplingParams(6)) for engine in (one, two)]
            texts = [await read(one, requests[0]), await read(two, requests[1])]
        assert texts[0] == texts[1] != b""


# Bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ("", PromptError, "the prompt is empty; give at least one character"),
        (b"", PromptError, "the prompt is empty"),
        ("a\0b", PromptError, "has a byte 0, which ends a text; remove it"),
        ("a" * 60, PromptError, "60 tokens and max_tokens=5 exceed the model's context of 64"),
        ("\udc80", PromptError, "no valid text, correct it: .* surrogates not allowed"),
        (5, TypeError, "the prompt is a int; give str or bytes"),
        ([1, 2], TypeError, "the prompt is a list"),
        (None, TypeError, "the prompt is a NoneType"),
    ],
)
async def test_bad_prompt_is_refused_and_the_engine_lives_on(
    prompt: Any, error: type[Exception], message: str
) -> None:
    """The error says what is wrong; no slot, place or neighbour pays for it."""
    model = rigged()
    async with running(model) as engine:
        neighbour = engine.submit(PROMPT, SamplingParams(5))
        with pytest.raises(error, match=message):
            engine.submit(prompt, SamplingParams(5))
        with pytest.raises(error, match=message):
            await engine.complete(prompt, SamplingParams(5))
        assert await read(engine, neighbour)
        await engine.drained()
        assert_at_rest(engine)


async def test_full_queue_refuses_until_there_is_room() -> None:
    """``max_waiting`` counts those who find no slot; a refused request leaves no trace."""
    model = rigged()
    hold = model.hold(0)
    async with running(model, max_running=2, max_waiting=1) as engine:
        requests = [engine.submit(PROMPT, SamplingParams(4)) for _ in range(3)]
        with pytest.raises(EngineBusyError, match="1 requests wait already; retry later or raise"):
            engine.submit(PROMPT, SamplingParams(4))
        hold.release()
        await read(engine, requests[0])
        late = engine.submit(PROMPT, SamplingParams(4))
        assert await read(engine, late) == requests[0].output
    assert [request.id for request in requests] == [0, 1, 2]
    assert late.id == 3


async def test_engine_without_waiting_takes_what_has_a_slot() -> None:
    """With ``max_waiting=0`` a request runs at once or is refused."""
    model = rigged()
    hold = model.hold(0)
    async with running(model, max_running=2, max_waiting=0) as engine:
        requests = [engine.submit(PROMPT, SamplingParams(4)) for _ in range(2)]
        with pytest.raises(EngineBusyError, match="0 requests wait"):
            engine.submit(PROMPT, SamplingParams(4))
        hold.release()
        assert [await read(engine, request) for request in requests] != [b"", b""]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_running": 0}, ValueError, "max_running=0 is below 1"),
        ({"prefill_rows": 0}, ValueError, "prefill_rows=0 is below 1"),
        ({"chunk": -1}, ValueError, "chunk=-1 is below 1"),
        ({"max_waiting": -1}, ValueError, "max_waiting=-1 is negative"),
        ({"depth": 0}, ValueError, "depth=0 is below 1"),
        ({"max_batch": 8}, TypeError, "unexpected keyword argument 'max_batch'"),
    ],
)
def test_bad_option_is_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Sizes below 1 and options that there are not."""
    with open_device("cpu") as device, pytest.raises(error, match=message):
        Engine(rigged(), device, **options)


def test_model_that_the_engine_cannot_run_is_refused() -> None:
    """On another device, or with tokens that are no bytes."""
    with open_device("cpu") as device:
        with pytest.raises(ValueError, match="model is on meta and the engine's device is cpu"):
            Engine(ByteTransformer(TINY).to("meta"), device)
        words = ModelConfig(d_model=16, num_layers=1, num_heads=2, max_len=16, vocab=300)
        with pytest.raises(ValueError, match="vocab=300; the engine needs 256"):
            Engine(ByteTransformer(words), device)


async def test_submit_outside_the_block_is_refused() -> None:
    """Before the start and after the end the error says which."""
    with open_device("cpu") as device:
        engine = Engine(rigged(), device)
        with pytest.raises(SchedulerClosedError, match="not started"):
            engine.submit(PROMPT, SamplingParams(4))
        async with engine:
            pass
        with pytest.raises(SchedulerClosedError, match="takes no more work"):
            engine.submit(PROMPT, SamplingParams(4))
        with pytest.raises(SchedulerClosedError, match="takes no more work"):
            await engine.complete(PROMPT, SamplingParams(4))
    assert not engine.pipeline.waiting


def test_end_of_text_is_no_letter() -> None:
    """The tests' alphabet leaves the end of the text out."""
    assert EOS not in LETTERS
