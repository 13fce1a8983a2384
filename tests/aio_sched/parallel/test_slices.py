"""Which rows are this rank's: from host integers only, in every layout."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aio_sched.parallel.slices import Layout, local_slice

COUNTS = (3, 0, 5, 2)

counts_of_ranks = st.lists(st.integers(0, 50), min_size=1, max_size=16)


def rows(counts: Sequence[int], layout: Layout, **how: Any) -> list[range]:
    """Return the rows of each rank."""
    slices = [local_slice(rank, counts, layout, **how) for rank in range(len(counts))]
    return [range(each.start, each.stop) for each in slices]


@pytest.mark.parametrize(
    ("layout", "how", "expected"),
    [
        (Layout.EAGER, {}, [(0, 3), (3, 3), (3, 8), (8, 10)]),
        (Layout.EAGER, {"stride": 4, "total": 10}, [(0, 3), (3, 3), (3, 8), (8, 10)]),
        (Layout.DECODE_GRAPH, {"stride": 8, "total": 32}, [(0, 3), (8, 8), (16, 21), (24, 26)]),
        (Layout.PREFILL_GRAPH, {"stride": 4, "total": 64}, [(0, 3), (3, 3), (3, 8), (8, 10)]),
        (Layout.LOCAL, {"stride": 4}, [(0, 3), (0, 0), (0, 5), (0, 2)]),
    ],
)
def test_each_layout_has_its_rows(
    layout: Layout, how: dict[str, int], expected: list[tuple[int, int]]
) -> None:
    """A stale stride changes nothing where the rows lie one behind the other."""
    assert rows(COUNTS, layout, **how) == [range(*each) for each in expected]


def test_local_rows_need_no_counts() -> None:
    """Without data parallelism all rows are this rank's."""
    assert local_slice(0, None, Layout.LOCAL, total=7) == slice(0, 7)
    assert local_slice(2, COUNTS, Layout.LOCAL, total=5) == slice(0, 5)


def test_rows_of_a_gathered_tensor_are_the_ranks_own() -> None:
    """Each rank finds what it gave, padding left out."""
    given_rows = [torch.full((count, 2), rank) for rank, count in enumerate(COUNTS)]
    eager = torch.cat(given_rows)
    graph = torch.full((4 * 8, 2), -1)
    for rank, own in enumerate(given_rows):
        graph[rank * 8 : rank * 8 + len(own)] = own
    for rank, own in enumerate(given_rows):
        assert torch.equal(eager[local_slice(rank, COUNTS)], own)
        assert torch.equal(graph[local_slice(rank, COUNTS, Layout.DECODE_GRAPH, stride=8)], own)


@given(counts_of_ranks, st.sampled_from([Layout.EAGER, Layout.PREFILL_GRAPH]))
def test_dense_slices_tile_the_batch(counts: list[int], layout: Layout) -> None:
    """All rows belong to exactly one rank, in order of rank."""
    tiled = [row for each in rows(counts, layout, total=sum(counts)) for row in each]
    assert tiled == list(range(sum(counts)))


@given(counts_of_ranks, st.integers(0, 8))
def test_graph_slices_fit_their_stride(counts: list[int], spare: int) -> None:
    """Each rank stays inside its own part, with as many rows as it has."""
    stride = max(counts) + spare
    for rank, own in enumerate(rows(counts, Layout.DECODE_GRAPH, stride=stride)):
        assert len(own) == counts[rank]
        assert rank * stride == own.start <= own.stop <= (rank + 1) * stride


class Unreadable:
    """Like a tensor on a device: reading its value is what must not happen."""

    def refuse(self) -> NoReturn:
        """Complain."""
        raise AssertionError("the value was read: on a device that is a wait")

    __index__ = __int__ = __bool__ = __iter__ = __len__ = __repr__ = refuse


tensors = pytest.mark.parametrize(
    "value", [torch.tensor(2), torch.ones(1), np.int64(2), True, 2.0, "2", Unreadable()], ids=type
)


@tensors
@pytest.mark.parametrize("argument", ["rank", "count", "stride", "total"])
def test_anything_but_an_integer_is_refused_unread(argument: str, value: Any) -> None:
    """A tensor as a bound would be read in the middle of the launches."""
    how: dict[str, Any] = {"rank": 0, "counts": COUNTS, "stride": 8, "total": 10}
    how |= {"counts": [1, value]} if argument == "count" else {argument: value}
    with pytest.raises(TypeError, match=r"Python integer: a slice bound that is a tensor"):
        local_slice(**how)


@pytest.mark.parametrize("counts", [torch.tensor(COUNTS), np.array(COUNTS), Unreadable(), 3])
def test_counts_in_a_tensor_are_refused_unread(counts: Any) -> None:
    """Going through a tensor reads each element."""
    with pytest.raises(TypeError, match="give a list or tuple of Python integers"):
        local_slice(0, counts)


def test_a_tensor_without_values_is_refused_too() -> None:
    """The meta device has no values to read at all."""
    with pytest.raises(TypeError, match=r"counts\[1\] is a torch.Tensor"):
        local_slice(0, [1, torch.empty((), device="meta")])  # type: ignore[list-item]  # refused


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"counts": None}, "rows of each rank are missing"),
        ({"counts": None, "layout": Layout.LOCAL}, "needs total"),
        ({"counts": ()}, "rank 0 is none of 0 ranks"),
        ({"rank": 4}, "rank 4 is none of 4 ranks"),
        ({"rank": -1}, "rank=-1 is negative"),
        ({"counts": (3, -1)}, r"counts\[1\]=-1 is negative"),
        ({"total": 11}, "add up to 10 rows, but the eager batch has 11"),
        ({"total": 9, "layout": Layout.PREFILL_GRAPH}, "the prefill_graph batch has 9"),
        ({"layout": Layout.DECODE_GRAPH}, "needs stride"),
        ({"layout": Layout.DECODE_GRAPH, "stride": 4}, "5 rows of rank 2 do not fit"),
        ({"layout": Layout.DECODE_GRAPH, "stride": 8, "total": 10}, "make 32 rows"),
        ({"layout": Layout.LOCAL, "total": 10}, "rank 0 has 3 rows"),
        ({"layout": "diagonal"}, "'diagonal' is unknown"),
    ],
)
def test_what_does_not_add_up_is_refused(how: dict[str, Any], message: str) -> None:
    """Counts of another step, of another graph, or of another group."""
    right: dict[str, Any] = {"rank": 0, "counts": COUNTS}
    with pytest.raises(ValueError, match=message):
        local_slice(**(right | how))
