"""Which bytes of its storage a tensor covers, views included."""

from functools import lru_cache
from itertools import product

from torch import Tensor

__all__ = ["Range", "byte_ranges", "row_range"]

Range = tuple[int, int]
"""From the first byte to behind the last, counted from the start of the storage."""

_MAX_RANGES = 1024


def byte_ranges(tensor: Tensor) -> tuple[Range, ...]:
    """Return the ranges that ``tensor`` covers, ascending.

    A view in more than a thousand pieces counts as all that lies between its ends: then two
    interleaved views can seem to overlap, but no overlap is ever missed.
    """
    return _ranges(
        tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.element_size()
    )


def row_range(tensor: Tensor, row: int) -> tuple[Range, ...]:
    """Return the ranges of one row along the first dimension."""
    offset = tensor.storage_offset() + row * tensor.stride(0)
    return _ranges(offset, tuple(tensor.shape[1:]), tensor.stride()[1:], tensor.element_size())


@lru_cache(maxsize=8192)
def _ranges(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...], size: int
) -> tuple[Range, ...]:
    if 0 in shape:
        return ()
    # Strides of torch are never negative; a broadcast dimension covers nothing new.
    dims = sorted((s, n) for s, n in zip(strides, shape, strict=True) if n > 1 and s > 0)
    length = 1  # elements in one piece
    while dims and dims[0][0] <= length:
        stride, count = dims.pop(0)
        length = max(length, stride * (count - 1) + length)
    num_pieces = 1
    for _, count in dims:
        num_pieces *= count
    if num_pieces > _MAX_RANGES:
        length += sum(stride * (count - 1) for stride, count in dims)
        dims = []
    starts = sorted(
        {
            offset + sum(at * stride for at, (stride, _) in zip(index, dims, strict=True))
            for index in product(*(range(count) for _, count in dims))
        }
    )
    return _merged([(start * size, (start + length) * size) for start in starts])


def _merged(ranges: list[Range]) -> tuple[Range, ...]:
    """Join ranges, ascending by start, that touch or overlap."""
    merged: list[Range] = []
    for low, high in ranges:
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)
