"""The table of a draft and verify, and the rows that its requests own."""

from array import array
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from aio_sched.engine.admission import Limits
from aio_sched.engine.requests import Request
from aio_sched.engine.table import decode_shape
from buffers.slots import Slot

__all__ = ["rows_of", "slots_of", "verify_rows"]


def verify_rows(requests: Sequence[Request], limits: Limits) -> Tensor:
    """Build the table of a draft and verify on the host, padded to its fixed shape.

    A ``StepTable`` whose ``starts`` and ``lengths`` say where a request's output may stand,
    since the host does not know how far it has come.
    """
    cells = array("q")
    for request, slot in zip(requests, slots_of(requests), strict=True):
        slot_row, params = slot.index, request.params
        ends = len(request.prompt), params.max_tokens
        cells.extend((slot_row, *ends, slot_row, params.seed, params.temperature_bits))
    rows, columns = decode_shape(limits)
    cells.extend([0] * (rows * columns - len(cells)))
    return torch.frombuffer(cells, dtype=torch.int64).view(rows, columns)


def slots_of(requests: Iterable[Request]) -> list[Slot]:
    """Return the slots of requests that a step claims, which all have one."""
    return [request.slot for request in requests if request.slot is not None]


def rows_of(requests: Iterable[Request]) -> tuple[int, ...]:
    """Return the rows that they own, ascending, as a launch declares them."""
    return tuple(sorted(slot.index for slot in slots_of(requests)))
