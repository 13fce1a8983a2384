"""A model small enough for hundreds of runs, rigged so that tests can hold and break its steps."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from aio_sched.engine.engine import Engine
from aio_sched.engine.kv_cache import KVCache
from aio_sched.engine.model import EOS, ByteTransformer, ModelConfig
from aio_sched.engine.requests import FinishReason, Request, SamplingParams
from aio_sched.engine.sampling import sample
from aio_sched.engine.text_engine import TextEngine
from streams.device import open_device

__all__ = [
    "CHUNK",
    "LETTERS",
    "TINY",
    "Hold",
    "RiggedModel",
    "assert_at_rest",
    "assert_ended_in_time",
    "assert_right",
    "read",
    "rigged",
    "running",
]

CHUNK = 4
TINY = ModelConfig(d_model=16, num_layers=2, num_heads=2, d_hidden=32, max_len=64)
LETTERS = bytes(range(1, 11))
"""What the tiny model writes, beside the end of the text."""


class Hold:
    """Keeps one step of the model on the device until ``release()``."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self._released = threading.Event()

    def release(self) -> None:
        """Let the step go on."""
        self._released.set()

    def __call__(self) -> None:
        """Wait on the device's thread."""
        self.started.set()
        assert self._released.wait(20.0), "the test never released it"


class RiggedModel(ByteTransformer):
    """Does something of the test's before a step, on the device.

    Attributes:
        kinds: ``"prefill"`` or ``"decode"`` of each step that began, in order.
        before: what to do, by number of the step.
        faults: what the next step of a kind raises.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.kinds: list[str] = []
        self.before: dict[int, Callable[[], object]] = {}
        self.faults: dict[str, BaseException] = {}

    def prefill(
        self, tokens: Tensor, slots: Tensor, starts: Tensor, lengths: Tensor, cache: KVCache
    ) -> Tensor:
        """Begin a step, and prefill."""
        self._begin("prefill")
        return super().prefill(tokens, slots, starts, lengths, cache)

    def decode(self, tokens: Tensor, slots: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """Begin a step, and decode."""
        self._begin("decode")
        return super().decode(tokens, slots, positions, cache)

    def hold(self, step: int) -> Hold:
        """Keep the step of this number on the device until the hold is released."""
        self.before[step] = hold = Hold()
        return hold

    def fail(self, step: int, error: BaseException) -> None:
        """Let the step of this number raise."""
        self.before[step] = partial(_raise, error)

    def fail_next(self, kind: str, error: BaseException) -> None:
        """Let the next step of this kind raise."""
        self.faults[kind] = error

    def _begin(self, kind: str) -> None:
        number = len(self.kinds)
        self.kinds.append(kind)
        if number in self.before:
            self.before[number]()
        if kind in self.faults:
            raise self.faults.pop(kind)


def _raise(error: BaseException) -> None:
    raise error


@asynccontextmanager
async def running(model: ByteTransformer, **options: Any) -> AsyncIterator[Engine]:
    """Run an engine on a CPU device of its own; few and small slots and chunks by default."""
    sizes: dict[str, Any] = {"max_running": 2, "prefill_rows": 2, "chunk": CHUNK}
    with open_device("cpu") as device:
        engine = Engine(model, device, **sizes | options)
        async with asyncio.timeout(30.0), engine:
            yield engine
        assert device.streams == ()


async def read(engine: Engine, request: Request) -> bytes:
    """Read a request to its end."""
    return bytes([token async for token in engine.stream(request)])


@cache
def _weights() -> dict[str, Tensor]:
    """Return random weights that prefer ``LETTERS`` and the end, and that remember.

    Of ten greedy texts nine change if the twelfth token before them does. The embeddings of all
    other bytes are zero, so that their logits are as well.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = ByteTransformer(TINY).requires_grad_(False)
        for name, weight in model.named_parameters():
            if name == "embed.weight":
                weight.normal_().mul_(5 / weight.norm(dim=1, keepdim=True))
                weight[len(LETTERS) + 1 :] = 0
                weight[EOS].mul_(0.95)
            elif "norm" not in name:
                weight.mul_(4)
    return model.state_dict()


def rigged() -> RiggedModel:
    """Make a tiny model; all have the same weights."""
    model = RiggedModel(TINY)
    model.load_state_dict(_weights())
    return model.requires_grad_(False)


def assert_at_rest(engine: TextEngine[Any]) -> None:
    """Nothing is left of any request: no slot, no place in a queue, no work, no memory."""
    pipeline, turns = engine.pipeline, engine.scheduler.turns
    assert list(pipeline.waiting) == pipeline.running == []
    assert pipeline.is_empty.is_set()
    assert pipeline.num_free_slots == pipeline.limits.max_running
    assert not turns.in_flight
    assert len(turns.keep_alive) == turns.keep_alive.num_claimed == 0
    assert [stream.queue_before(10**9) for stream in turns.streams] == [[], [], []]


def assert_right(model: ByteTransformer, request: Request, tolerance: float = 1e-3) -> None:
    """Each token is the one that a plain forward of the whole text would choose.

    Sums in another order may differ in the last bits, so a token passes if it wins with a
    handicap of ``tolerance``.
    """
    tokens, num_prompt = bytes(request.output), len(request.prompt)
    if request.finish is FinishReason.END_OF_TEXT:
        tokens += bytes([EOS])
    if not tokens:
        return
    text = torch.tensor([[*request.prompt, *tokens[:-1]]])
    logits = model(text)[0, num_prompt - 1 :]
    chosen = torch.tensor(list(tokens))
    logits[torch.arange(len(tokens)), chosen] += tolerance
    wins = _sample(logits, request.params, num_prompt)
    assert bytes(wins.tolist()) == tokens


def _sample(logits: Tensor, params: SamplingParams, first: int) -> Tensor:
    rows = logits.shape[0]
    temperatures = torch.full((rows,), params.temperature)
    seeds = torch.full((rows,), params.seed, dtype=torch.int64)
    return sample(logits, temperatures, seeds, torch.arange(first, first + rows))


def assert_ended_in_time(request: Request) -> None:
    """The text has no token too many, and ended for the reason that it says."""
    output, stop, finish = bytes(request.output), request.params.stop, request.finish
    is_full = len(output) == request.params.max_tokens
    assert EOS not in output
    assert len(output) <= request.params.max_tokens
    if stop is not None:
        assert output.find(stop) in (-1, len(output) - len(stop))
        assert (finish is FinishReason.STOP) == output.endswith(stop)
    assert finish is not FinishReason.LENGTH or is_full
    assert not is_full or finish is not FinishReason.ABORTED
