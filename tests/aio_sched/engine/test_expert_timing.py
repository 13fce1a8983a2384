"""What it costs, in virtual time, to get what layers chose to the host."""

import asyncio
from typing import Any

import pytest
from torch import Tensor

from aio_sched.engine import engine as engine_module
from aio_sched.engine.engine import Engine
from aio_sched.engine.expert_pipeline import ExpertPipeline
from aio_sched.engine.pipeline import Batch
from aio_sched.engine.requests import SamplingParams
from aio_sched.testing import virtual_run
from buffers.transfer import copy_to_host
from streams.current import current_stream
from streams.device import open_device
from streams.launch import Launch
from streams.simulated import SimProfile
from streams.simulated.profile import RangeUs
from tests.aio_sched.engine.tiny import CHUNK, LETTERS, read
from tests.aio_sched.engine.tiny_experts import rigged_mixture

MODEL_US, CLONE_US, COPY_US = 1000.0, 10.0, 400.0
NUM_TOKENS = 24


class Costs(SimProfile):
    """A clone on the device is far shorter than a forward, and than a copy to the host."""

    def _range(self, stage: str | None, label: str) -> RangeUs:
        return (CLONE_US, CLONE_US) if label == "_clone" else super()._range(stage, label)


class CopyingInForward(ExpertPipeline):
    """Copies to the host inside the forward: the next one waits for it."""

    def _results(self, inputs: Batch, tokens: Launch[Tensor]) -> Any:
        tokens, taken = super()._results(inputs, tokens)
        stream = current_stream()
        assert stream is not None
        return tokens, copy_to_host(stream, taken)


def makespan_us(*, capture: bool) -> float:
    """Return how long one text takes, and the copies of its steps."""

    async def main() -> float:
        profile = Costs("mine", forward_us=(MODEL_US,) * 2, copy_us=(COPY_US,) * 2)
        clock = asyncio.get_running_loop().time
        with open_device("sim", profile=profile) as device:
            engine = Engine(
                rigged_mixture(), device, chunk=CHUNK, max_running=2, capture_experts=capture
            )
            async with engine:
                params = SamplingParams(max_tokens=NUM_TOKENS)
                request = engine.submit(LETTERS[:3], params)
                began = clock()
                await read(engine, request)
                assert len(request.output) == NUM_TOKENS
                assert (request.routed_experts is not None) == capture
                return (clock() - began) * 1e6

    return virtual_run(main(), shuffle=False)


def test_capture_costs_a_clone_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy runs beside the next forward; inside the forward it would add all of its time."""
    without, captured = makespan_us(capture=False), makespan_us(capture=True)
    monkeypatch.setattr(engine_module, "ExpertPipeline", CopyingInForward)
    inside = makespan_us(capture=True)
    assert captured - without == pytest.approx(NUM_TOKENS * CLONE_US, rel=0.2)
    assert inside - captured > 0.9 * NUM_TOKENS * COPY_US
