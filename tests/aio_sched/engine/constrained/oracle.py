"""The text of one request, found in the plainest way: forward, mask, sample, one by one."""

from typing import NamedTuple

import torch
from torch import Tensor

from aio_sched.engine.admission import Limits
from aio_sched.engine.kv_cache import KVCache
from aio_sched.engine.model import EOS, ByteTransformer
from aio_sched.engine.requests import FinishReason, SamplingParams
from aio_sched.engine.sampling import sample

__all__ = ["Text", "written_alone"]


class Text(NamedTuple):
    """What a request should give."""

    output: bytes
    finish: FinishReason


def written_alone(
    model: ByteTransformer, prompt: bytes, params: SamplingParams, limits: Limits
) -> Text:
    """Write a request's text alone, on this thread, in the engine's shapes.

    The shapes matter for the last bits of the logits only; nothing else of the engine is used.
    """
    alone = _Alone(model, limits)
    automaton = None if params.constraint is None else params.constraint.automaton()
    output = bytearray()
    logits = alone.prefill(prompt)
    while True:
        position = len(prompt) + len(output)
        flags = b"\1" * 256 if automaton is None else automaton.allowed()
        if automaton is not None and flags[0] and not any(flags[1:]):
            return Text(bytes(output), FinishReason.END_OF_TEXT)
        if len(output) == params.max_tokens:
            return Text(bytes(output), FinishReason.LENGTH)
        token = _chosen(logits, flags, params, position)
        if token == EOS:
            return Text(bytes(output), FinishReason.END_OF_TEXT)
        output.append(token)
        if params.stop is not None and output.endswith(params.stop):
            return Text(bytes(output), FinishReason.STOP)
        if automaton is not None:
            automaton.advance(token)
        logits = alone.decode(token, position)


class _Alone:
    def __init__(self, model: ByteTransformer, limits: Limits) -> None:
        self._model = model
        self._limits = limits
        self._cache = KVCache(model.config, limits.max_running)

    def prefill(self, prompt: bytes) -> Tensor:
        size = self._limits.chunk
        for start in range(0, len(prompt), size):
            piece = prompt[start : start + size]
            tokens = torch.zeros(self._limits.prefill_rows, size, dtype=torch.int64)
            tokens[0, : len(piece)] = torch.tensor(list(piece))
            slots, starts, lengths = self._columns(self._limits.prefill_rows, start, len(piece))
            logits = self._model.prefill(tokens, slots, starts, lengths, self._cache)
        return logits[0]

    def decode(self, token: int, position: int) -> Tensor:
        rows = self._limits.max_running
        slots, positions, tokens = self._columns(rows, position, token)
        return self._model.decode(tokens, slots, positions, self._cache)[0]

    def _columns(self, rows: int, second: int, third: int) -> tuple[Tensor, ...]:
        """Make columns of padding, whose first row is slot 1 and the two numbers."""
        columns = torch.zeros(3, rows, dtype=torch.int64)
        columns[:, 0] = torch.tensor([1, second, third])
        return columns.unbind()


def _chosen(logits: Tensor, flags: bytes, params: SamplingParams, position: int) -> int:
    forbidden = torch.tensor([flag == 0 for flag in flags])
    masked = logits.masked_fill(forbidden, -torch.inf)[None]
    seeds, positions = torch.tensor([params.seed]), torch.tensor([position])
    return int(sample(masked, torch.tensor([params.temperature]), seeds, positions))
