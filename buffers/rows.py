"""Which rows a call names, and what it does with them."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from buffers.errors import DtypeError, DuplicateSlotError, SlotRangeError
from buffers.fields import check_index
from buffers.slots import PADDING, Slot
from streams.launch import Launch

__all__ = ["RowRef", "RowUse", "Rows", "Slots", "Use", "as_rows", "index_of"]

Slots: TypeAlias = Sequence[Slot | int] | Tensor
"""Slots of one call: ``Slot`` objects, row numbers, or a one-dimensional host tensor of them."""


class RowRef(NamedTuple):
    """A row as one caller sees it; a plain row number states no generation."""

    row: int
    generation: int | None = None
    owner: str = ""

    def __str__(self) -> str:
        if self.generation is None:
            return f"slot {self.row} of no stated generation"
        return str(Slot(self.row, self.generation, self.owner))


class Rows(NamedTuple):
    """The slots of one call: for the device, and without padding for the books."""

    numbers: tuple[int, ...]
    refs: tuple[RowRef, ...]

    def as_tensor(self) -> Tensor:
        """The row numbers, padding included, in host memory of their own."""
        return torch.tensor(self.numbers, dtype=torch.int64, device="cpu")


class Use(enum.Enum):
    """What a launch does with rows."""

    GATHER = "gather"  # reads; in strict mode each write may be gathered once
    PEEK = "peek"  # reads, and leaves the rows to be gathered
    STASH = "stash"  # writes
    PUBLISH = "publish"  # writes, under an event that others may wait for


@dataclass(frozen=True, slots=True)
class RowUse:
    """What one launch does with some rows; made by ``RelayBuffer.gathers`` and the like."""

    use: Use
    rows: Rows
    fields: tuple[str, ...]

    @property
    def is_read(self) -> bool:
        """Whether the launch takes values out of the rows."""
        return self.use in (Use.GATHER, Use.PEEK)


def as_rows(slots: Slots, num_slots: int) -> Rows:
    """Check the slots of one call.

    Raises:
        DtypeError: a tensor that is on a device, or that holds no row numbers.
        SlotRangeError: a row number below 0 or above ``num_slots``.
        DuplicateSlotError: a slot named twice; only padding may be.
    """
    refs = [_as_ref(slot) for slot in _as_sequence(slots)]
    seen: set[int] = set()
    for ref in refs:
        if not 0 <= ref.row <= num_slots:
            raise SlotRangeError(
                f"{ref} is out of range; slots are 1 to {num_slots}, and {PADDING} is padding"
            )
        if ref.row in seen:
            raise DuplicateSlotError(
                f"slot {ref.row} is named twice in one call; name each slot once "
                f"({PADDING}, the padding row, may repeat)"
            )
        if ref.row != PADDING:
            seen.add(ref.row)
    return Rows(tuple(ref.row for ref in refs), tuple(ref for ref in refs if ref.row != PADDING))


def index_of(rows: Rows, given: Tensor | Launch[Tensor] | None) -> Tensor | Launch[Tensor]:
    """Return the row numbers for the device: as given, or made from the slots.

    Raises:
        DtypeError: the given tensor is not int64.
        ShapeError: it has not one dimension, or fewer rows than there are slots.
    """
    if given is None:
        return rows.as_tensor()
    if isinstance(given, Tensor):
        check_index(given, at_least=len(rows.numbers))
    return given


def _as_sequence(slots: Slots) -> Sequence[Slot | int]:
    if not isinstance(slots, Tensor):
        return slots
    if slots.device.type != "cpu":
        raise DtypeError(
            f"slots are a tensor on {slots.device}, and reading them would block; give them as "
            "host integers, and this tensor as index="
        )
    if slots.dim() != 1 or slots.is_floating_point() or slots.is_complex():
        raise DtypeError(
            f"slots are a tensor of {slots.dtype} and shape {tuple(slots.shape)}; "
            "give one dimension of integers"
        )
    numbers: list[int] = slots.tolist()
    return numbers


def _as_ref(slot: Slot | int) -> RowRef:
    if isinstance(slot, Slot):
        return RowRef(slot.index, slot.generation, slot.owner)
    return RowRef(slot)
