"""Which bytes of its storage a tensor covers, views included."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from math import gcd, prod
from typing import NamedTuple

from torch import Tensor

__all__ = ["Range", "byte_ranges", "overlap", "row_range"]

_MAX_RANGES = 1024


class Range(NamedTuple):
    """Bytes of a storage, counted from its start: all between two ends, or pieces of these.

    Attributes:
        low: the first byte.
        high: behind the last byte.
        stride: from the start of one piece to the next; 0 where there is one piece.
        length: of each piece.
    """

    low: int
    high: int
    stride: int
    length: int

    def pieces(self) -> Iterator["Range"]:
        """Give the pieces one by one."""
        for low in range(self.low, self.high, self.stride or self.length):
            yield Range(low, low + self.length, 0, self.length)


def overlap(one: Range, other: Range) -> bool:
    """Whether two ranges have a byte in common.

    Exact, but for pieces in two different strides: those are compared as if both went on for
    ever between their ends, which can seem to be an overlap where there is none.
    """
    if one.high <= other.low or other.high <= one.low:
        return False
    step = gcd(one.stride, other.stride)
    if not step:
        return True
    # Two pieces lie apart by the distance of the first ones and some multiple of the step.
    apart = other.low - one.low
    nearest = apart + ((-other.length - apart) // step + 1) * step
    return nearest < one.length


def byte_ranges(tensor: Tensor) -> tuple[Range, ...]:
    """Return the ranges that ``tensor`` covers, ascending.

    A view in more than a thousand pieces is given as ranges with a stride. One that has more
    than a thousand of these counts as all that lies between its ends: then two interleaved
    views can seem to overlap, but no overlap is ever missed.
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
    dims, comb = _split(_joined(dims))
    if prod(count for _, count in dims) > _MAX_RANGES:
        length += sum(stride * (count - 1) for stride, count in (*dims, comb))
        dims, comb = [], _ONE
    starts = sorted(
        {
            offset + sum(at * stride for at, (stride, _) in zip(index, dims, strict=True))
            for index in product(*(range(count) for _, count in dims))
        }
    )
    stride, count = comb
    span = stride * (count - 1) + length
    ranges = [
        Range(start * size, (start + span) * size, stride * size, length * size) for start in starts
    ]
    return tuple(ranges) if stride else _merged(ranges)


_Dim = tuple[int, int]
"""Stride and count, in elements."""

_ONE: _Dim = (0, 1)


def _joined(dims: list[_Dim]) -> list[_Dim]:
    """Join dimensions, ascending by stride, of which one goes on where the other one ends."""
    joined: list[_Dim] = []
    for stride, count in dims:
        if joined and joined[-1][0] * joined[-1][1] == stride:
            joined[-1] = (joined[-1][0], joined[-1][1] * count)
        else:
            joined.append((stride, count))
    return joined


def _split(dims: list[_Dim]) -> tuple[list[_Dim], _Dim]:
    """Take the longest dimension out where there are too many pieces to name each."""
    if prod(count for _, count in dims) <= _MAX_RANGES:
        return dims, _ONE
    comb = max(dims, key=lambda dim: dim[1])
    return [dim for dim in dims if dim is not comb], comb


def _merged(ranges: list[Range]) -> tuple[Range, ...]:
    """Join ranges of one piece, ascending by start, that touch or overlap."""
    merged: list[Range] = []
    for part in ranges:
        if merged and part.low <= merged[-1].high:
            low, high = merged[-1].low, max(part.high, merged[-1].high)
            merged[-1] = Range(low, high, 0, high - low)
        else:
            merged.append(part)
    return tuple(merged)
