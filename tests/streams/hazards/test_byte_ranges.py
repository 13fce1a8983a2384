"""Which bytes views cover, against counting them one by one."""

from random import Random

import pytest
import torch
from torch import Tensor

from streams.hazards import byte_ranges as under_test
from streams.hazards.byte_ranges import Range, byte_ranges, overlap

_SIZE = 600


def view(random: Random) -> Tensor:
    """Make a view of a storage of bytes, as strange as ``as_strided`` allows."""
    shape = [random.randint(1, 5) for _ in range(random.randint(1, 3))]
    stride = [random.randint(0, 24) for _ in shape]
    dtype = random.choice([torch.uint8, torch.int16])
    return torch.zeros(_SIZE, dtype=torch.uint8).view(dtype).as_strided(shape, stride, 5)


def covered(tensor: Tensor) -> set[int]:
    """Count the bytes of a view."""
    size = tensor.element_size()
    offsets = torch.arange(_SIZE // size).as_strided(tensor.shape, tensor.stride(), 5)
    return {at * size + byte for at in offsets.flatten().tolist() for byte in range(size)}


def of(ranges: tuple[Range, ...]) -> set[int]:
    """Return the bytes of ranges."""
    return {at for part in ranges for p in part.pieces() for at in range(p.low, p.high)}


@pytest.mark.parametrize("max_ranges", [1, 4, 1024])
def test_ranges_cover_what_the_view_covers(
    monkeypatch: pytest.MonkeyPatch, max_ranges: int
) -> None:
    """Exactly, unless even ranges with strides are too many: then nothing is missing."""
    monkeypatch.setattr(under_test, "_MAX_RANGES", max_ranges)
    random, num_exact = Random(1), 0
    under_test._ranges.cache_clear()
    for _ in range(2000):
        tensor = view(random)
        ranges, expected = byte_ranges(tensor), covered(tensor)
        assert expected <= of(ranges)
        assert (min(expected), max(expected)) == (min(of(ranges)), max(of(ranges)))
        num_exact += expected == of(ranges)
    under_test._ranges.cache_clear()
    assert num_exact == 2000 if max_ranges == 1024 else num_exact > 1000


def test_overlap_is_that_of_the_bytes() -> None:
    """No overlap is missed; where strides are equal, or one piece is whole, none is made up."""
    random, tally = Random(2), {True: 0, False: 0}
    for _ in range(20_000):
        one, other = some_range(random), some_range(random)
        expected = bool(of((one,)) & of((other,)))
        found = overlap(one, other)
        assert found == overlap(other, one)
        if one.stride == other.stride or not one.stride or not other.stride:
            assert found == expected, (one, other)
        assert found or not expected, (one, other)
        tally[expected] += 1
    assert min(tally.values()) > 2000


def some_range(random: Random) -> Range:
    """Make a range of one piece or of several."""
    low, length = random.randint(0, 60), random.randint(1, 6)
    stride = random.choice([0, 8, 12])
    span = stride * random.randint(1, 6) + length
    return Range(low, low + span, stride, length)
