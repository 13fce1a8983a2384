"""Draft heads: texts of the plain engine, and drafts from the right hidden state of the model."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from aio_sched.engine.engine import Engine
from aio_sched.engine.errors import RequestFailedError
from aio_sched.engine.requests import Request, SamplingParams
from aio_sched.engine.weights import DRAFT, HEADS, WeightsError, load_model
from aio_sched.speculative.engine import SpeculativeEngine
from aio_sched.speculative.errors import DraftModelError
from aio_sched.speculative.heads import (
    DraftHeads,
    HeadsConfig,
    HeadsDrafter,
    load_heads,
    save_heads,
)
from benchmarks.speculative import prompts_of
from streams.device import open_device
from streams.hazards import AccessAudit, HazardChecker
from tests.aio_sched.engine.tiny import LETTERS, TINY, rigged
from tests.aio_sched.speculative.test_engine import ASKED, at_rest, plain_texts, texts
from tests.aio_sched.speculative.test_virtual_time import run
from tests.aio_sched.speculative.tiny import drafting, engine_on, read
from tests.aio_sched.speculative.tiny_heads import Begun, ListeningHeads, tiny_heads

MODEL = rigged()

of_asyncio = pytest.mark.asyncio(loop_factories=["asyncio"])


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "sequential"])
@pytest.mark.parametrize("host_lengths", ["exact", "none"])
@pytest.mark.parametrize("plan", ["targeted", "whole_draft", "off"])
@of_asyncio
async def test_texts_are_those_of_the_plain_engine(
    plan: str, host_lengths: str, overlap: bool
) -> None:
    """Greedy ones and drawn ones, more than there are slots, under every policy."""
    options = {"plan": plan, "host_lengths": host_lengths, "overlap": overlap, "strict": True}
    async with drafting(draft=tiny_heads(), **options) as engine:
        assert await texts(engine, ASKED) == await plain_texts(ASKED)
        assert 0 < engine.speculation.accepted < engine.speculation.drafted


@pytest.mark.parametrize("num_draft", [1, 2, 4])
@of_asyncio
async def test_as_many_tokens_as_there_are_layers_can_be_drafted(num_draft: int) -> None:
    """And fewer."""
    async with drafting(draft=tiny_heads(), num_draft=num_draft) as engine:
        assert await texts(engine, ASKED) == await plain_texts(ASKED)
        assert engine.speculation.accepted > 0


# Where they start -------------------------------------------------------------------------


@pytest.mark.parametrize("host_lengths", ["exact", "none"])
@of_asyncio
async def test_draft_starts_from_the_hidden_state_of_the_last_kept_token(host_lengths: str) -> None:
    """Behind prompts of one chunk and of several, what was accepted, and who had the slot."""
    drafter = ListeningHeads()
    async with drafting(draft=drafter, host_lengths=host_lengths) as engine:
        asked = [*ASKED, (LETTERS[3:5], SamplingParams(20))]
        requests = [engine.submit(prompt, params) for prompt, params in asked]
        leaving = engine.submit(LETTERS[:6], SamplingParams(50))
        requests += [leaving, engine.submit(LETTERS[2:9], SamplingParams(15))]
        await asyncio.gather(
            *(read(engine, each) for each in requests if each is not leaving),
            leave(engine, leaving),
        )
        await at_rest(engine)
        wasted = engine.speculation.wasted_rows
    right = [any(is_right(begun, request) for request in requests) for begun in drafter.begun]
    assert len(right) - sum(right) <= wasted
    assert len({begun.length for begun in drafter.begun}) > 15


def is_right(begun: Begun, request: Request) -> bool:
    """Whether a draft began with what a plain forward of this text says."""
    text = bytes(request.prompt) + bytes(request.output)
    if not len(request.prompt) <= begun.length < len(text) or text[begun.length] != begun.last:
        return False
    hidden = MODEL.hidden(torch.tensor([list(text[: begun.length])]))[0, -1]
    return torch.allclose(begun.hidden, hidden, atol=1e-3)


async def leave(engine: SpeculativeEngine, request: Request) -> None:
    """Read a few tokens of a text."""
    async with aclosing(engine.stream(request)) as tokens:
        for _ in range(4):
            await anext(tokens)


class FailingHeads(HeadsDrafter):
    """Fails to keep a hidden state, when it is told to.

    Attributes:
        left: calls until then; none below 0.
    """

    left = -1

    def keep_hidden(self, slots: Tensor, hidden: Tensor) -> None:
        """Keep it, or fail."""
        self.left -= 1
        if self.left == 0:
            raise OSError("no memory today")
        super().keep_hidden(slots, hidden)


@pytest.mark.parametrize("left", [1, 4], ids=["prefill", "verify"])
@of_asyncio
async def test_failed_step_fails_its_own_requests_only(left: int) -> None:
    """Who comes later finds the engine as it was."""
    drafter = FailingHeads(tiny_heads())
    async with drafting(draft=drafter) as engine:
        await read(engine, engine.submit(*ASKED[0]))
        await at_rest(engine)
        drafter.left = left
        with pytest.raises(RequestFailedError, match="no memory today"):
            await read(engine, engine.submit(*ASKED[1]))
        await at_rest(engine)
        assert await texts(engine, ASKED) == await plain_texts(ASKED)


# What it costs ----------------------------------------------------------------------------


@of_asyncio
async def test_all_that_steps_use_is_declared() -> None:
    """Of the heads' memory, and of what they are given."""
    checker = HazardChecker()
    audit = AccessAudit(checker)
    with open_device("cpu") as device, checker.watch(device), audit.watch(device):
        engine = engine_on(device, draft=HeadsDrafter(tiny_heads()))
        every = engine.pipeline._work.all_rows((1, 2))
        audit.register(*(access.memory for access in every))
        async with engine:
            await texts(engine, ASKED)
    assert audit.num_operators
    assert checker.reports == []
    assert "draft.hidden" in {f"{access.buffer}.{access.field}" for access in every}


def test_planning_overlaps_the_draft_as_with_a_model() -> None:
    """The plan starts when the draft does, and the makespan is shorter by it."""
    targeted, whole = (run(draft=tiny_heads(), plan=plan) for plan in ("targeted", "whole_draft"))
    assert len(targeted.steps) > 3
    for step in targeted.steps:
        assert step["begin_draft"].end_s == step["plan_verify"].start_s == step["draft"].start_s
    assert targeted.text == whole.text == run().text
    assert whole.makespan_us - targeted.makespan_us == 100 * targeted.num_useful


def test_heads_need_no_launch_that_a_model_does_not() -> None:
    """The same in each step: so who does not want hidden states has none more either."""
    [with_heads], [with_model] = (
        {frozenset(step) for step in run(draft=draft).steps[:3]} for draft in (tiny_heads(), None)
    )
    assert with_heads == with_model


# Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "num_draft", "message"),
    [
        ({"d_model": 32}, 3, "the draft heads have d_model=32 and the target model d_model=16; "),
        ({"vocab": 300}, 3, "the draft heads have vocab=300 and the target model vocab=256; draft"),
        ({}, 3, "num_draft=3 and the draft heads have 2 layers, one for each token; draft at most"),
    ],
    ids=["width", "vocabulary", "layers"],
)
def test_heads_that_do_not_go_with_the_model_are_refused(
    sizes: dict[str, int], num_draft: int, message: str
) -> None:
    """With both numbers, before any stream is opened."""
    heads = DraftHeads(HeadsConfig(**{"d_model": TINY.d_model, "num_layers": 2} | sizes))
    with open_device("cpu") as device:
        with pytest.raises(DraftModelError, match=message):
            engine_on(device, draft=heads, num_draft=num_draft)
        assert device.streams == ()


def test_heads_on_another_device_are_refused() -> None:
    """With what to do about it."""
    heads = DraftHeads(HeadsConfig(d_model=TINY.d_model)).to("meta")
    with pytest.raises(DraftModelError, match=r"on meta and the target model on cpu; .*heads\.to"):
        HeadsDrafter(heads).attach(MODEL, 1)


@pytest.mark.parametrize("size", [0, -1, 2.0])
def test_sizes_below_1_are_refused(size: Any) -> None:
    """And what is no number of layers."""
    with pytest.raises(ValueError, match=f"num_layers is {size}; it must be an int of at least 1"):
        HeadsConfig(num_layers=size)


# Weights ----------------------------------------------------------------------------------


def test_loaded_heads_are_the_saved_ones(tmp_path: Path) -> None:
    """As float32 of the stored float16, for inference; the random generator is left alone."""
    save_heads(tiny_heads(), tmp_path / "heads", {"note": "tiny"})
    before = torch.get_rng_state()
    loaded = load_heads(tmp_path / "heads")
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.config == tiny_heads().config
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, tiny_heads().get_parameter(name).half().float())
        assert not parameter.requires_grad


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    """A model is no stack of heads, nor is what is not there."""
    with pytest.raises(WeightsError, match="its metadata describes no draft heads"):
        load_heads(DRAFT)
    with pytest.raises(WeightsError, match="it lacks the tensors blocks"):
        load_model(HEADS)
    with pytest.raises(WeightsError, match="there is no such file; pass a file written by"):
        load_heads(tmp_path / "none")


def test_shipped_heads_are_small_and_say_where_they_come_from() -> None:
    """And how often layers agree with the model on text that neither saw."""
    assert HEADS.stat().st_size < 1_500_000
    with safe_open(HEADS, framework="pt") as file:
        [facts] = json.loads(file.metadata()["runs"])
    assert facts["agreement"][0] > 0.5
    assert sorted(facts["agreement"], reverse=True) == facts["agreement"]
    assert facts["text_sha256"]


@of_asyncio
async def test_greedy_texts_with_the_shipped_heads_are_those_of_plain_decoding() -> None:
    """And a third of what is drafted is accepted."""
    prompts, params = prompts_of(8), SamplingParams(24)
    torch.set_num_threads(1)
    written = []
    with open_device("cpu") as device:
        drafting_one = SpeculativeEngine(load_model(), load_heads(), device)
        for engine in (drafting_one, Engine(load_model(), device)):
            async with engine:
                asking = (engine.complete(prompt, params) for prompt in prompts)
                written.append(await asyncio.gather(*asking))
    assert written[0] == written[1]
    assert drafting_one.speculation.acceptance_rate > 1 / 3
