"""Greedy texts of the models that we ship are those of plain decoding.

A verify and a plain decode multiply matrices of different shapes, so the last bits of their
logits may differ, and where two tokens are as likely as that, a text may. That did not happen
on these prompts; a verify of drafts against one of none, which has one shape, it cannot.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from aio_sched.engine.engine import Engine
from aio_sched.engine.requests import SamplingParams
from aio_sched.engine.text_engine import TextEngine
from aio_sched.engine.weights import load_draft, load_model
from aio_sched.speculative.engine import SpeculativeEngine
from benchmarks.speculative import prompts_of
from streams.device import open_device

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])


async def texts(
    engine: TextEngine[Any], prompts: Sequence[bytes], params: SamplingParams
) -> list[str]:
    """Continue all prompts."""
    async with engine:
        return await asyncio.gather(*(engine.complete(prompt, params) for prompt in prompts))


async def compare(num_prompts: int, max_tokens: int) -> None:
    """Continue prompts with drafts and without."""
    prompts, params = prompts_of(num_prompts), SamplingParams(max_tokens)
    assert len(set(prompts)) == num_prompts
    torch.set_num_threads(1)
    with open_device("cpu") as device:
        engine = SpeculativeEngine(load_model(), load_draft(), device)
        drafted = await texts(engine, prompts, params)
        plain = await texts(Engine(load_model(), device), prompts, params)
    assert drafted == plain
    assert engine.speculation.acceptance_rate > 0.4
    assert engine.speculation.tokens_per_forward > 2.5


async def test_a_few_greedy_texts_are_those_of_plain_decoding() -> None:
    """And half of what is drafted is accepted."""
    await compare(12, 24)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_500_greedy_texts_are_those_of_plain_decoding() -> None:
    """From all over the text that the models were trained on."""
    await compare(500, 64)
