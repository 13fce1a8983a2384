"""What was captured, on the host: by KV slot and position, until the slot's request has ended."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from buffers.errors import CaptureOverflowError, CaptureRowsError, SlotRangeError, StaleSlotError
from buffers.slots import PADDING, Slot

__all__ = ["Captured", "CapturedRows"]


class Captured(NamedTuple):
    """Rows of one step.

    Attributes:
        experts: int16 ``[rows, layers, top_k]``.
        places: int32 ``[rows, 2]``, slot and position of each; slot 0 is padding.
    """

    experts: Tensor
    places: Tensor


class CapturedRows:
    """Host memory with a row for each token of each slot; row 0 of slots is padding.

    The rows of a slot belong to one generation of it. They come in the order of the tokens,
    so that a count says which are there: a gap, or a row twice, is an error at once. Nothing
    here waits; one thread calls it.

    Args:
        num_slots: slots are 1 to ``num_slots``.
        max_len: tokens that a slot has room for.
        num_layers: layers that choose.
        top_k: experts that each chooses.
    """

    def __init__(self, num_slots: int, max_len: int, num_layers: int, top_k: int) -> None:
        self.num_slots = num_slots
        self.max_len = max_len
        shape = (num_slots + 1, max_len, num_layers, top_k)
        self._rows = torch.zeros(shape, dtype=torch.int16, device="cpu")
        self._owners: dict[int, Slot] = {}
        self._counts: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<CapturedRows {sum(self._counts.values())} of {len(self._counts)} slots>"

    def scatter(self, captured: Captured, owners: Mapping[Slot, int | None]) -> None:
        """Keep the rows of one step. On an error, none of them.

        The step's ``copy_done`` must be complete, and steps come in their order.

        Args:
            captured: host tensors.
            owners: the slots whose rows count, as they were when the step was enqueued, and
                how many of each: of tokens to verify the accepted ones; None for all. Rows of
                other slots are dropped, padding and what is past the end of a text.

        Raises:
            CaptureRowsError: the rows of a slot are fewer than that, or do not continue those
                that it has.
            CaptureOverflowError: a position beyond ``max_len``.
            SlotRangeError: there is no such slot.
            StaleSlotError: the slot has a later owner, who has rows already.
        """
        by_slot: dict[int, list[int]] = {}
        places: list[list[int]] = captured.places.tolist()
        for row, (slot, _) in enumerate(places):
            by_slot.setdefault(slot, []).append(row)
        found: dict[Slot, list[int]] = {}
        for owner, kept in owners.items():
            found[owner] = rows = by_slot.get(owner.index, [])[:kept]
            self._check(owner, [places[row][1] for row in rows], kept)
        for owner, rows in found.items():
            begin = self.num_rows(owner)
            self._rows[owner.index, begin : begin + len(rows)] = captured.experts[rows]
            self._owners[owner.index], self._counts[owner.index] = owner, begin + len(rows)

    def num_rows(self, owner: Slot) -> int:
        """Return how many tokens of an owner of a slot have their row."""
        return self._counts[owner.index] if self._owners.get(owner.index) is owner else 0

    def collect(self, owner: Slot, num_tokens: int) -> Tensor:
        """Take out the rows of a request that has ended; the slot has none from then on.

        Args:
            owner: its slot.
            num_tokens: tokens of it that a forward has read.

        Returns:
            int16 ``[num_tokens, layers, top_k]``, in memory of its own.

        Raises:
            CaptureRowsError: there are more or fewer rows than tokens.
        """
        if (num_rows := self.num_rows(owner)) != num_tokens:
            raise CaptureRowsError(
                f"{owner} has {num_rows} captured rows for {num_tokens} tokens; each token that a "
                "forward reads must be captured once"
            )
        rows = self._rows[owner.index, :num_tokens].clone()
        self._owners.pop(owner.index, None)
        self._counts.pop(owner.index, None)
        return rows

    def _check(self, owner: Slot, positions: list[int], kept: int | None) -> None:
        if not PADDING < owner.index <= self.num_slots:
            raise SlotRangeError(f"{owner} is out of range; slots are 1 to {self.num_slots}")
        latest = self._owners.get(owner.index, owner)
        if latest.generation > owner.generation:
            raise StaleSlotError(f"rows came for {owner}, but it belongs to {latest}; drop them")
        begin = self.num_rows(owner)
        wanted = list(range(begin, begin + (len(positions) if kept is None else kept)))
        if positions != wanted:
            raise CaptureRowsError(
                f"{owner} has {begin} captured rows, and now come those of positions {positions} "
                f"instead of {wanted}; each token that a forward reads must be captured once"
            )
        if begin + len(positions) > self.max_len:
            raise CaptureOverflowError(
                f"{owner} gets {begin + len(positions)} rows and has room for {self.max_len}"
            )
