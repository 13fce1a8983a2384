"""The table that tells the device what a step works on: one row per request.

One int64 tensor, so that a step costs one copy to the device. Temperatures travel as
the bits of a double.
"""

import math
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from aio_sched.engine.admission import Chunk, Limits
from aio_sched.engine.requests import Request

__all__ = ["StepTable", "decode_rows", "decode_shape", "prefill_rows", "prefill_shape"]

NUM_COLUMNS = 6


class StepTable:
    """Names for the columns of a step's table on the device.

    Attributes:
        slots: int64 ``[rows]``; 0 is the padding row.
        starts: int64 ``[rows]``, position of the row's first token.
        lengths: int64 ``[rows]``, tokens of the row; 0 in a padding row.
        stash_slots: int64 ``[rows]``, where the sampled token goes; 0 discards it.
        seeds: int64 ``[rows]``.
        temperatures: float32 ``[rows]``.
        tokens: int64 ``[rows, chunk]``, empty in a decode.
    """

    def __init__(self, rows: Tensor) -> None:
        columns = rows[:, :NUM_COLUMNS].unbind(1)
        self.slots, self.starts, self.lengths, self.stash_slots, self.seeds, bits = columns
        self.temperatures = bits.contiguous().view(torch.float64).float()
        self.tokens = rows[:, NUM_COLUMNS:]


def prefill_shape(limits: Limits) -> tuple[int, int]:
    """Return the shape of a prefill's table."""
    return limits.prefill_rows, NUM_COLUMNS + limits.chunk


def decode_shape(limits: Limits) -> tuple[int, int]:
    """Return the shape of a decode's table."""
    return limits.max_running, NUM_COLUMNS


def prefill_rows(chunks: Sequence[Chunk[Request]], limits: Limits) -> Tensor:
    """Build the table of a prefill on the host, padded to its fixed shape."""
    cells = array("q")
    for request, start, length, is_last in chunks:
        cells.extend(_row(request, start, length, is_last and request.guide is None))
        cells.extend(request.prompt[start : start + length])
        cells.extend(bytes(limits.chunk - length))
    return _padded(cells, prefill_shape(limits))


def decode_rows(requests: Sequence[Request], limits: Limits) -> Tensor:
    """Build the table of a decode on the host, padded to its fixed shape."""
    cells = array("q")
    for request in requests:
        cells.extend(_row(request, request.position, 1, request.guide is None))
    return _padded(cells, decode_shape(limits))


def _row(request: Request, start: int, length: int, is_sampled: bool) -> tuple[int, ...]:
    assert request.slot is not None, "a scheduled request has a slot"
    slot, params = request.slot.index, request.params
    return slot, start, length, slot if is_sampled else 0, params.seed, params.temperature_bits


def _padded(cells: "array[int]", shape: tuple[int, int]) -> Tensor:
    # An array, because making a tensor from lists of lists costs three times as much.
    cells.frombytes(bytes(cells.itemsize * (math.prod(shape) - len(cells))))
    return torch.frombuffer(cells, dtype=torch.int64).view(shape)
