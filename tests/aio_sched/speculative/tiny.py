"""Speculative engines over the tiny model, and drafters for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import torch
from torch import Tensor

from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.requests import Request
from aio_sched.speculative.drafter import ChainDrafter, DraftStart
from aio_sched.speculative.engine import SpeculativeEngine
from streams.device import Device, open_device
from tests.aio_sched.engine.tiny import CHUNK, TINY, rigged

__all__ = [
    "SIZES",
    "MuteDrafter",
    "NonsenseDrafter",
    "draft_model",
    "drafting",
    "engine_on",
    "read",
]

SIZES: dict[str, Any] = {"max_running": 2, "prefill_rows": 2, "chunk": CHUNK, "num_draft": 3}


def draft_model(noise: float = 0.15) -> ByteTransformer:
    """Make a model that agrees with the tiny one most of the time; always with no noise."""
    model = ByteTransformer(TINY)
    model.load_state_dict(rigged().state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for weight in model.requires_grad_(False).blocks.parameters():
            weight.add_(noise * weight.std(correction=0) * torch.randn_like(weight))
    return model


class MuteDrafter(ChainDrafter):
    """Says nothing of when it has read the cells, so that plans wait for all of its draft."""

    reads_shared_cells = True


class NonsenseDrafter(ChainDrafter):
    """Drafts nonsense: every token is byte 1."""

    def draft(self, start: DraftStart, num_tokens: int) -> Tensor:
        """Draft it."""
        return torch.ones_like(super().draft(start, num_tokens))


def engine_on(device: Device, **options: Any) -> SpeculativeEngine:
    """Make an engine over the tiny model; few and small slots and chunks by default."""
    model = options.pop("model", None) or rigged()
    draft = options.pop("draft", None) or draft_model()
    return SpeculativeEngine(model, draft, device, **SIZES | options)


@asynccontextmanager
async def drafting(**options: Any) -> AsyncIterator[SpeculativeEngine]:
    """Run such an engine on a CPU device of its own."""
    with open_device("cpu") as device:
        async with engine_on(device, **options) as engine:
            yield engine
        assert device.streams == ()


async def read(engine: SpeculativeEngine, request: Request) -> bytes:
    """Read a request to its end."""
    return bytes([token async for token in engine.stream(request)])
