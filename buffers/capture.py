"""What each layer chose, captured on the device for the tokens of one step after the other."""

from typing import NamedTuple

import torch
from torch import Tensor

from buffers.access import Access
from buffers.captured_rows import Captured, CapturedRows
from buffers.errors import CaptureOverflowError, NoCurrentStreamError, ShapeError
from buffers.fields import FieldSpec
from buffers.row_memory import RowMemory
from streams.current import current_stream
from streams.device import Device
from streams.launch import Launch
from streams.stream import Stream

__all__ = ["CaptureCache", "CaptureShape"]


class CaptureShape(NamedTuple):
    """What a model chooses for each token.

    Attributes:
        num_layers: layers that choose.
        top_k: experts that a layer chooses.
        num_shared: columns behind those, for experts that each token has: not captured.
    """

    num_layers: int
    top_k: int
    num_shared: int = 0


class CaptureCache:
    """Which experts each layer chose, by row of the batch; overwritten by each step.

    Inside the launch of a forward, the model says where its rows stand (``place``) and each
    layer what it chose (``write``): torch work of a fixed shape, which can be captured in a
    graph. Then ``take`` clones this rank's rows, since the next forward writes them anew; the
    clone is copied to the host with the step's other results, and ``host`` keeps it by slot
    until the request that owns the slot has ended.

    Blocks the thread until its memory is filled: make it at set-up. Calls must come from one
    thread, the one that issues device work, but for ``place`` and ``write``.

    Args:
        device: where the rows live.
        shape: what the model chooses.
        max_rows: tokens of the largest batch: rows times tokens of a prefill, all tokens to
            verify of a speculative step, the rows of all ranks and their padding.
        num_slots: slots of the KV cache, 1 to ``num_slots``.
        max_len: tokens that a slot has room for.
        name: names it in errors and reported hazards.

    Attributes:
        host: what came to the host.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        device: Device,
        shape: CaptureShape,
        *,
        max_rows: int,
        num_slots: int,
        max_len: int,
        name: str = "capture",
    ) -> None:
        sizes = {**shape._asdict(), "max_rows": max_rows, "num_slots": num_slots}
        for field, size in {**sizes, "max_len": max_len}.items():
            if size < (field != "num_shared"):
                raise ValueError(f"{field}={size} of capture cache {name!r} is out of range")
        self.device = device
        self.shape = shape
        self.max_rows = max_rows
        self.name = name
        self.host = CapturedRows(num_slots, max_len, shape.num_layers, shape.top_k)
        experts = FieldSpec(torch.int16, (shape.num_layers, shape.top_k + shape.num_shared))
        fields = {"experts": experts, "places": FieldSpec(torch.int32, (2,))}
        self._memory = RowMemory(device, max_rows, fields, strict=False, name=name).tensors

    def __repr__(self) -> str:
        return f"<CaptureCache {self.name!r} on {self.device.name}: {self.max_rows} rows>"

    def accesses(self, num_rows: int) -> tuple[Access, ...]:
        """Name the first rows, as the launch of a forward declares them in ``writes``.

        Raises:
            CaptureOverflowError: there are not so many.
        """
        self._check_room(num_rows)
        return self._accesses(range(num_rows))

    # In the launch of a forward ---------------------------------------------

    def place(self, slots: Tensor, positions: Tensor, *, start: int = 0) -> None:
        """Say where the rows of a batch stand, in the order of its rows.

        Enqueues on the current stream. A data-parallel rank knows its own rows only, and
        places them from the start of its slice on.

        Args:
            slots: integers, any shape; 0 in padding.
            positions: of the same shape.
            start: the first of these rows in the whole batch.

        Raises:
            CaptureOverflowError: the batch has too many rows, or ``start`` is negative.
            ShapeError: the shapes differ.
        """
        if slots.shape != positions.shape:
            raise ShapeError(
                f"slots have shape {tuple(slots.shape)} and positions {tuple(positions.shape)}; "
                "give one of each per row"
            )
        stop = start + slots.numel()
        if start < 0:
            raise CaptureOverflowError(f"rows {start} to {stop} are no rows of a batch")
        self._check_room(stop)
        places = torch.stack((slots.flatten(), positions.flatten()), dim=1)
        self._memory["places"][start:stop] = places

    def write(self, layer: int, experts: Tensor) -> None:
        """Keep what a layer chose for the rows of a batch; enqueues on the current stream.

        Args:
            layer: which one.
            experts: integers below 2**15, ``[..., top_k + num_shared]``; all but the last
                dimension are the rows, in the order of ``place``.

        Raises:
            CaptureOverflowError: the batch has too many rows.
            ShapeError: no such layer, or another number of columns.
        """
        num_columns = self.shape.top_k + self.shape.num_shared
        if not 0 <= layer < self.shape.num_layers or experts.shape[-1] != num_columns:
            raise ShapeError(
                f"layer {layer} chose {experts.shape[-1]} experts; capture cache {self.name!r} "
                f"has layers 0 to {self.shape.num_layers - 1} of {num_columns} columns"
            )
        rows = experts.reshape(-1, num_columns)
        self._check_room(rows.shape[0])
        self._memory["experts"][: rows.shape[0], layer] = rows

    # Behind it --------------------------------------------------------------

    def take(self, rows: slice, *, stream: Stream | None = None) -> Launch[Captured]:
        """Enqueue a clone of this rank's rows, without the columns of shared experts.

        On the stream of the forward, behind it: what comes there later may write the rows.
        The clone is memory of its own; have it copied with what else goes to the host
        (``step.copy_to_host((tokens, taken), reused=False)``), and give the copy to
        ``host.scatter`` once the step's ``copy_done`` is complete.

        Args:
            rows: of the batch, from Python integers: what ``local_slice`` returns.
            stream: the current stream by default.

        Raises:
            TypeError: a bound is no Python integer, a tensor above all.
            CaptureOverflowError: there are no such rows.
            NoCurrentStreamError: no stream is current, and none is given.
        """
        part = self._part(rows)
        if (stream := stream or current_stream()) is None:
            raise NoCurrentStreamError("take() outside prepare and forward needs stream=")
        accesses = self._accesses(range(rows.start, rows.stop))
        # WAR: the next forward writes these rows while the copy stream may still read them.
        return stream.launch(_clone, part, reads=accesses)

    def _part(self, rows: slice) -> Captured:
        if type(rows.start) is not int or type(rows.stop) is not int or rows.step is not None:
            kinds = ", ".join(
                type(each).__qualname__ for each in (rows.start, rows.stop, rows.step)
            )
            # The types only: the text of a device tensor is read from the device.
            raise TypeError(
                f"the bounds of the rows are {kinds}; give slice(start, stop) of Python integers, "
                "as local_slice does: to cut with a tensor, Python waits for the device"
            )
        if not 0 <= rows.start <= rows.stop:
            raise CaptureOverflowError(f"rows {rows.start} to {rows.stop} are no rows of a batch")
        self._check_room(rows.stop)
        experts = self._memory["experts"][rows, :, : self.shape.top_k]
        return Captured(experts, self._memory["places"][rows])

    def _accesses(self, rows: range) -> tuple[Access, ...]:
        numbers = tuple(rows)
        return tuple(
            Access(self.name, field, numbers, memory) for field, memory in self._memory.items()
        )

    def _check_room(self, num_rows: int) -> None:
        if num_rows > self.max_rows:
            raise CaptureOverflowError(
                f"a batch of {num_rows} rows does not fit capture cache {self.name!r} of "
                f"{self.max_rows}; make it for the largest batch of all: prefill, decode, tokens "
                "to verify, and the rows of all ranks"
            )


def _clone(part: Captured) -> Captured:
    return Captured(part.experts.clone(), part.places.clone())
