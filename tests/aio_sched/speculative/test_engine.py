"""Texts of the speculative engine: those of the plain one, whatever is drafted, ends or fails."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from aio_sched.engine.errors import RequestAbortedError, RequestFailedError
from aio_sched.engine.requests import FinishReason, Request, SamplingParams
from aio_sched.speculative.engine import SpeculativeEngine
from aio_sched.speculative.lookup import LookupDrafter
from streams.device import open_device
from tests.aio_sched.engine.tiny import (
    LETTERS,
    TINY,
    assert_at_rest,
    assert_ended_in_time,
    assert_right,
    rigged,
    running,
)
from tests.aio_sched.engine.tiny import read as read_plain
from tests.aio_sched.pipelines import until
from tests.aio_sched.speculative.tiny import (
    MuteDrafter,
    NonsenseDrafter,
    draft_model,
    drafting,
    engine_on,
    read,
)

MODEL = rigged()

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])

ASKED = [
    (LETTERS[number : number + 1 + 3 * number], SamplingParams(12 + number, number % 2, number))
    for number in range(4)
]


async def plain_texts(asked: list[tuple[bytes, SamplingParams]]) -> list[bytes]:
    """Continue prompts without drafts."""
    async with running(MODEL) as engine:
        requests = [engine.submit(prompt, params) for prompt, params in asked]
        return await asyncio.gather(*(read_plain(engine, request) for request in requests))


async def at_rest(engine: SpeculativeEngine) -> None:
    """Wait for the last step too: slots are free as soon as it has left the device."""
    await engine.drained()
    await until(lambda: not engine.scheduler.turns.in_flight)
    assert_at_rest(engine)


async def texts(engine: SpeculativeEngine, asked: list[tuple[bytes, SamplingParams]]) -> Any:
    """Continue prompts with drafts; nothing may be left behind."""
    requests = [engine.submit(prompt, params) for prompt, params in asked]
    written = await asyncio.gather(*(read(engine, request) for request in requests))
    await at_rest(engine)
    for request in requests:
        assert_right(MODEL, request)
        assert_ended_in_time(request)
    return written


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "sequential"])
@pytest.mark.parametrize("host_lengths", ["exact", "none"])
@pytest.mark.parametrize("plan", ["targeted", "whole_draft", "off"])
@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
async def test_texts_are_those_of_the_plain_engine(
    plan: str, host_lengths: str, overlap: bool
) -> None:
    """Greedy ones and drawn ones, more than there are slots, under every policy; no hazard."""
    options = {"plan": plan, "host_lengths": host_lengths, "overlap": overlap, "strict": True}
    async with drafting(**options) as engine:
        assert await texts(engine, ASKED) == await plain_texts(ASKED)
        assert 0 < engine.speculation.accepted < engine.speculation.drafted


@pytest.mark.parametrize(
    ("drafter", "rate"),
    [
        (draft_model(0), 1.0),
        (NonsenseDrafter(draft_model()), None),
        (MuteDrafter(draft_model()), None),
        (LookupDrafter(), None),
    ],
    ids=["perfect", "nonsense", "mute", "lookup"],
)
async def test_what_is_drafted_changes_no_text(drafter: Any, rate: float | None) -> None:
    """From a drafter that is always right to one that hardly ever is."""
    async with drafting(draft=drafter, strict=True) as engine:
        assert await texts(engine, ASKED) == await plain_texts(ASKED)
        assert rate is None or engine.speculation.acceptance_rate == rate


@pytest.mark.parametrize("num_draft", [1, 2, 7])
async def test_any_number_of_tokens_can_be_drafted(num_draft: int) -> None:
    """One, and more than most texts have left."""
    async with drafting(num_draft=num_draft) as engine:
        assert await texts(engine, ASKED) == await plain_texts(ASKED)


# Ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host_lengths", ["exact", "none"])
@pytest.mark.parametrize("max_tokens", [1, 2, 4, 5, 6])
async def test_text_ends_in_the_middle_of_what_was_accepted(
    max_tokens: int, host_lengths: str
) -> None:
    """A perfect drafter gives four tokens at a time; no text is longer than was asked for."""
    asked = [(LETTERS[:3], SamplingParams(max_tokens))]
    async with drafting(draft=draft_model(0), host_lengths=host_lengths) as engine:
        [text] = await texts(engine, asked)
    assert [text] == await plain_texts(asked)
    assert len(text) == max_tokens


async def test_stop_text_and_end_of_text_in_the_middle_of_what_was_accepted() -> None:
    """What was accepted behind them is never seen."""
    seeds = range(12)
    asked = [(LETTERS[:3], SamplingParams(30, temperature=1.0, seed=seed)) for seed in seeds]
    for seed, text in enumerate(await plain_texts(asked)):
        if len(text) > 7:
            params = SamplingParams(30, temperature=1.0, seed=seed, stop=text[5:7])
            asked.append((LETTERS[:3], params))
    async with drafting(draft=draft_model(0)) as engine:
        requests = [engine.submit(prompt, params) for prompt, params in asked]
        written = await asyncio.gather(*(read(engine, request) for request in requests))
    assert written == await plain_texts(asked)
    reasons = {request.finish for request in requests}
    assert reasons >= {FinishReason.END_OF_TEXT, FinishReason.STOP}


async def test_text_may_fill_the_context_to_its_end() -> None:
    """What would be drafted beyond the last position is kept nowhere."""
    asked = [
        (LETTERS[:1] * (TINY.max_len - left), SamplingParams(left, temperature=1.0, seed=left))
        for left in range(1, 7)
    ]
    async with drafting(draft=draft_model(0), num_draft=5, strict=True) as engine:
        assert await texts(engine, asked) == await plain_texts(asked)


async def test_exact_lengths_waste_no_row_and_none_does() -> None:
    """A host that knows where a text ends does not draft behind it."""
    wasted = {}
    for host_lengths in ("exact", "none"):
        async with drafting(draft=draft_model(0), host_lengths=host_lengths) as engine:
            await read(engine, engine.submit(LETTERS[:3], SamplingParams(9)))
            await at_rest(engine)
            wasted[host_lengths] = engine.speculation.wasted_rows
    assert wasted["exact"] == 0
    assert wasted["none"] > 0


async def test_stats_count_what_was_drafted_accepted_and_taken() -> None:
    """A perfect drafter of three: one token by prefill, then four, four and one."""
    async with drafting(draft=draft_model(0)) as engine:
        await read(engine, engine.submit(LETTERS[:3], SamplingParams(10)))
        stats = engine.speculation
    assert (stats.rows, stats.drafted, stats.accepted, stats.tokens) == (3, 9, 9, 9)
    assert stats.acceptance_rate == 1.0
    assert stats.tokens_per_forward == 3.0


# Aborts and failures ---------------------------------------------------------------------


async def test_reader_that_leaves_frees_its_slot_for_the_next_one() -> None:
    """Others, with the slots of those who left, get the texts that they get alone."""
    async with drafting(strict=True) as engine:
        for number in range(3):
            leaving = engine.submit(LETTERS[:5], SamplingParams(50))
            staying = engine.submit(*ASKED[number])
            async with aclosing(engine.stream(leaving)) as tokens:
                await anext(tokens)
            text = await read(engine, staying)
            with pytest.raises(RequestAbortedError):
                await read(engine, leaving)
            assert [text] == await plain_texts([ASKED[number]])
        await at_rest(engine)


class BrokenOnceDrafter(MuteDrafter):
    """Fails in one of its calls, once."""

    def __init__(self, kind: str) -> None:
        super().__init__(draft_model())
        self.kind = kind
        self.is_armed = False

    def _begin(self, kind: str) -> None:
        if self.is_armed and kind == self.kind:
            self.is_armed = False
            raise OSError(f"no {kind} today")

    def prefill(self, table: Any) -> None:
        """Prefill, or fail."""
        self._begin("prefill")
        super().prefill(table)

    def draft(self, start: Any, num_tokens: int) -> Any:
        """Draft, or fail."""
        self._begin("draft")
        return super().draft(start, num_tokens)

    def extend(self, start: Any, drafted: Any, chosen: Any) -> None:
        """Extend, or fail."""
        self._begin("extend")
        super().extend(start, drafted, chosen)


@pytest.mark.parametrize("host_lengths", ["exact", "none"])
@pytest.mark.parametrize("kind", ["prefill", "draft", "extend"])
async def test_failed_step_fails_its_own_requests_only(kind: str, host_lengths: str) -> None:
    """Who comes later finds the engine as it was."""
    drafter = BrokenOnceDrafter(kind)
    async with drafting(draft=drafter, host_lengths=host_lengths) as engine:
        await read(engine, engine.submit(*ASKED[0]))
        await at_rest(engine)  # or a step behind that text's end might fail
        drafter.is_armed = True
        broken = engine.submit(*ASKED[1])
        with pytest.raises(RequestFailedError, match=f"no {kind} today"):
            await read(engine, broken)
        await at_rest(engine)
        assert await texts(engine, ASKED) == await plain_texts(ASKED)


async def test_stopping_ends_what_runs_and_gives_the_streams_back() -> None:
    """In the middle of a text; ``drafting`` sees to the streams."""
    request: Request | None = None
    async with drafting() as engine:
        request = engine.submit(LETTERS[:3], SamplingParams(60))
        async for _ in engine.stream(request):
            break
    assert request.finish is FinishReason.ABORTED


@pytest.mark.parametrize("refused", [{"max_waiting": -1}, {"depth": 0}, {"war_barrier": "bogus"}])
async def test_refused_option_leaves_no_device_stream_behind(refused: dict[str, Any]) -> None:
    """Whoever corrects it finds the names of the streams free."""
    with open_device("sim") as device:
        with pytest.raises(ValueError, match=next(iter(refused))):
            async with engine_on(device, **refused):
                raise AssertionError("it has started")
        assert device.streams == ()
