"""What the library ships, as scenarios: ``aio-sched explore tests.hazards.scenarios:engine``.

The pipelines of the examples, made smaller, and the engine with a tiny model.
"""

import ast
import asyncio
from contextlib import aclosing
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from aio_sched.engine.engine import Engine
from aio_sched.engine.kv_cache import KVCache
from aio_sched.engine.model import EOS
from aio_sched.engine.requests import Request, SamplingParams
from aio_sched.inbox import Inbox
from aio_sched.testing import Scenario, Trial
from tests.aio_sched.engine.tiny import CHUNK, TINY, RiggedModel, assert_at_rest, rigged
from tests.hazards.shipped import constrained, disaggregated, experts, parallel, speculative

__all__ = [
    "SHIPPED",
    "embeddings",
    "engine",
    "engine_with_aborts",
    "fixed_length_requests",
    "images",
    "late_requests",
    "squares",
    "squares_all_there",
]

_EXAMPLES = Path(__file__).parents[2] / "examples"
_SIZES = {"max_running": 2, "prefill_rows": 2, "chunk": CHUNK}


# Pipelines of the examples ------------------------------------------------------


async def squares(trial: Trial) -> list[float]:
    """Square numbers that come in bursts: ``examples/minimal_pipeline.py``."""
    pipeline = example("minimal_pipeline").Squares(trial.device)
    async with trial.scheduler(pipeline):
        return await _asked(trial, pipeline.inbox, range(20))


async def images(trial: Trial) -> list[Any]:
    """Upscale images that come in bursts: ``examples/vision_batches.py``."""
    module = example("vision_batches", SIDE=4)
    pipeline = module.Upscaler(trial.device)
    noise = torch.randint(256, (12, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    async with trial.scheduler(pipeline):
        answers: list[Tensor] = await _asked(trial, pipeline.inbox, noise.to(torch.uint8))
    return [answer.tolist() for answer in answers]


async def embeddings(trial: Trial) -> list[Any]:
    """Embed texts that come in bursts: ``examples/embed_in_service.py``."""
    width = 12
    pipeline = example("embed_in_service", WIDTH=width).Embedder(trial.device)
    # A permutation, whose products are exact: those of floats depend on the size of a batch.
    pipeline.weight = torch.eye(width).roll(1, 0)
    async with trial.scheduler(pipeline):
        return await _asked(trial, pipeline.inbox, [b"text %d" % n for n in range(12)])


@cache
def example(name: str, **constants: int) -> ModuleType:
    """Load an example without running it, with some of its constants replaced.

    Args:
        name: the file's name without its ending.
        constants: module-level names and their values.
    """
    path = _EXAMPLES / f"{name}.py"
    tree = ast.parse(path.read_text())
    tree.body = [each for each in tree.body if not ast.unparse(each).startswith("asyncio.run(")]
    module = ModuleType(name)
    exec(compile(tree, str(path), "exec"), module.__dict__)
    assert constants.keys() <= module.__dict__.keys(), f"{path} has no {constants}"
    module.__dict__.update(constants)
    return module


async def _asked(trial: Trial, inbox: Inbox[Any, Any], items: Any) -> list[Any]:
    """Ask for everything, now and then with a pause before; the same pauses in every run."""
    async with asyncio.TaskGroup() as group:
        asking = []
        for item in items:
            if trial.dice.random() < 0.3:
                await asyncio.sleep(trial.dice.uniform(0.0, 0.003))
            asking.append(group.create_task(inbox.ask(item)))
    return [task.result() for task in asking]


# The engine ---------------------------------------------------------------------


async def engine(trial: Trial) -> list[bytes]:
    """Continue texts of several lengths, more than it has slots, that come one by one."""
    model = _engine(trial, rigged())
    trial.at_rest(lambda: assert_at_rest(model))
    async with model, asyncio.TaskGroup() as group:
        reading = []
        for number in range(4):
            params = SamplingParams(max_tokens=3 + number, temperature=number % 2, seed=number)
            request = model.submit(bytes([1 + number, 2, 3, 4, 5][: 3 + number]), params)
            reading.append(group.create_task(_read(model, request)))
            await asyncio.sleep(trial.dice.uniform(0.0, 0.003))
    return [task.result() for task in reading]


async def engine_with_aborts(trial: Trial) -> list[bytes]:
    """Continue texts whose readers leave after some tokens."""
    model = _engine(trial, rigged())
    trial.at_rest(lambda: assert_at_rest(model))
    async with model:
        params = SamplingParams(max_tokens=8)
        requests = [model.submit(bytes([1 + number, 2, 3]), params) for number in range(4)]
        reading = (_read(model, request, 1 + request.id) for request in requests)
        return await asyncio.gather(*reading)


def _engine(trial: Trial, model: RiggedModel) -> Engine:
    made = Engine(model, trial.device, overlap=trial.overlap, **_SIZES)  # type: ignore[arg-type]  # only sizes
    trial.watch(made.pipeline)
    return made


async def _read(model: Engine, request: Request, num_tokens: int = 100) -> bytes:
    async with aclosing(model.stream(request)) as tokens:
        read = [
            token for _ in range(num_tokens) if (token := await anext(tokens, None)) is not None
        ]
    return bytes(read)


# Request traces -----------------------------------------------------------------


class Endless(RiggedModel):
    """Never ends a text by itself, so that its length is what was asked for."""

    def prefill(
        self, tokens: Tensor, slots: Tensor, starts: Tensor, lengths: Tensor, cache: KVCache
    ) -> Tensor:
        """Rule out the end."""
        return _without_end(super().prefill(tokens, slots, starts, lengths, cache))

    def decode(self, tokens: Tensor, slots: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """Rule out the end."""
        return _without_end(super().decode(tokens, slots, positions, cache))


def _without_end(logits: Tensor) -> Tensor:
    logits[..., EOS] = -torch.inf
    return logits


def _endless() -> Endless:
    model = Endless(TINY)
    model.load_state_dict(rigged().state_dict())
    return model.requires_grad_(False)


async def fixed_length_requests(trial: Trial) -> list[bytes]:
    """Continue texts, no more than it has slots, all there before the first step."""
    model = _engine(trial, _endless())
    async with model:
        requests = [_fixed(model, number) for number in range(2)]
        return await asyncio.gather(*(_read(model, request) for request in requests))


async def late_requests(trial: Trial) -> list[bytes]:
    """The same texts, but the second one comes while the first one is under way."""
    model = _engine(trial, _endless())
    async with model, asyncio.TaskGroup() as group:
        first = group.create_task(_read(model, _fixed(model, 0)))
        await asyncio.sleep(0.002)
        second = group.create_task(_read(model, _fixed(model, 1)))
    return [first.result(), second.result()]


def _fixed(model: Engine, number: int) -> Request:
    return model.submit(bytes([1 + number, 2, 3, 4, 5, 6]), SamplingParams(max_tokens=4 + number))


async def squares_all_there(trial: Trial) -> Any:
    """Square numbers that all wait before the scheduler starts."""
    pipeline = example("minimal_pipeline").Squares(trial.device)
    asking = [asyncio.ensure_future(pipeline.inbox.ask(number)) for number in range(20)]
    while len(pipeline.inbox) < len(asking):  # noqa: ASYNC110 - their tasks tell nobody
        await asyncio.sleep(0)
    async with trial.scheduler(pipeline):
        return await asyncio.gather(*asking)


# What further parts of the library ship is in ``shipped/``, a module for each.
SHIPPED: tuple[Scenario, ...] = (
    squares,
    images,
    embeddings,
    engine,
    engine_with_aborts,
    *constrained.SHIPPED,
    *disaggregated.SHIPPED,
    *experts.SHIPPED,
    *parallel.SHIPPED,
    *speculative.SHIPPED,
)
