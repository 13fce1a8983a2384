"""Keys and values of all requests, by slot."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from buffers.access import Access

if TYPE_CHECKING:  # the model imports the cache that it writes
    from aio_sched.engine.model import ModelConfig

__all__ = ["KVCache"]


class KVCache:
    """Keys and values of every layer, one row of positions per slot.

    Row 0 is the padding row: whatever a batch has to write for nobody goes there. Requests own
    rows 1 to ``num_slots``. A row needs no clearing for its next owner: a query sees only positions
    up to its own, and its owner has written those. All methods enqueue on the current stream and do
    not wait; who reads a row on one stream and writes it on another must order the two.

    Attributes:
        keys: float ``[layers, num_slots + 1, heads, max_len, head_dim]``.
        values: as ``keys``.
        num_slots: Requests that fit at once.
        max_len: Positions of each slot.
    """

    def __init__(
        self,
        config: "ModelConfig",
        num_slots: int,
        *,
        max_len: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Allocate the cache; every step reads ``max_len`` positions, so a smaller one is faster.

        Raises:
            ValueError: ``num_slots`` is below 1, or ``max_len`` is below 1 or above the model's.
        """
        self.num_slots = num_slots
        self.max_len = config.max_len if max_len is None else max_len
        if num_slots < 1:
            raise ValueError(f"num_slots is {num_slots}; a cache needs at least 1 slot")
        if not 1 <= self.max_len <= config.max_len:
            raise ValueError(f"max_len is {max_len}; this model can have 1 to {config.max_len}")
        shape = (config.num_layers, num_slots + 1, config.num_heads, self.max_len, config.head_dim)
        # Zeros, not empty: a masked position still meets a weight of 0, and 0 * NaN is NaN.
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self._by_slot = self.keys.transpose(0, 1), self.values.transpose(0, 1)

    def __repr__(self) -> str:
        return f"<KVCache slots={self.num_slots} max_len={self.max_len} device={self.keys.device}>"

    def accesses(self, rows: tuple[int, ...]) -> tuple[Access, Access]:
        """Name some rows, ascending, in all layers, as a launch declares them."""
        keys, values = self._by_slot
        return Access("cache", "keys", rows, keys), Access("cache", "values", rows, values)

    def write(
        self, layer: int, slots: Tensor, positions: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        """Store keys and values; where several go to one place of row 0, any of them stays.

        Args:
            layer: Which layer's rows.
            slots: int64 ``[rows, length]``.
            positions: int64 ``[rows, length]``, each below ``max_len``.
            keys: float ``[rows, heads, length, head_dim]``.
            values: As ``keys``.
        """
        self.keys[layer, slots, :, positions] = keys.transpose(1, 2)
        self.values[layer, slots, :, positions] = values.transpose(1, 2)

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Copy the keys and values of some slots.

        Args:
            layer: Which layer's rows.
            slots: int64 ``[rows]``.

        Returns:
            Keys and values, each ``[rows, heads, max_len, head_dim]``.
        """
        return self.keys[layer].index_select(0, slots), self.values[layer].index_select(0, slots)
