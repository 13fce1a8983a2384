"""Which rows of a gathered batch are this rank's: pure, from host integers only."""

import enum
from collections.abc import Sequence
from itertools import accumulate

__all__ = ["Layout", "local_slice"]


class Layout(enum.StrEnum):
    """How the rows of all ranks lie in one gathered batch."""

    EAGER = "eager"
    """One rank's rows behind the other's, nothing between them."""
    DECODE_GRAPH = "decode_graph"
    """Each rank's rows begin at a multiple of the graph's stride; the rest is padding."""
    PREFILL_GRAPH = "prefill_graph"
    """Dense like ``EAGER``, in a buffer of fixed size: padding follows the last rank."""
    LOCAL = "local"
    """Only this rank's rows are there: no data parallelism, or taken out before."""


def local_slice(
    rank: int,
    counts: Sequence[int] | None,
    layout: Layout = Layout.EAGER,
    *,
    stride: int | None = None,
    total: int | None = None,
) -> slice:
    """Return the rows of ``rank`` in a batch gathered from all ranks.

    The bounds are Python integers, so that slicing a device tensor with them enqueues and
    nothing else. A tensor with one element would do as a bound too, and is refused for
    that: Python reads its value, and so waits for the device in the middle of the launches.

    Args:
        rank: whose rows.
        counts: rows of each rank, by rank; a list or tuple of Python integers, such as
            ``gather_info`` gives. None only where ``layout`` is ``LOCAL``.
        layout: how the rows lie.
        stride: rows per rank of ``DECODE_GRAPH``. The other layouts have none and ignore
            it: it may well be the one of the last decode step.
        total: rows of the whole batch, to be checked if given. ``EAGER``: the sum of
            ``counts``; ``DECODE_GRAPH``: the ranks times ``stride``; ``PREFILL_GRAPH``: at
            least the sum; ``LOCAL``: this rank's.

    Returns:
        A slice with a start and a stop, both integers.

    Raises:
        TypeError: something is no Python integer, a tensor above all.
        ValueError: counts are missing, negative, do not fit ``stride`` or do not add up
            to ``total``; no such rank; no stride where one is needed.
    """
    for name, value in (("rank", rank), ("stride", stride), ("total", total)):
        if value is not None:
            _check_count(name, value)
    if layout == Layout.LOCAL and counts is None:
        if total is None:
            raise ValueError("layout 'local' without counts needs total, the rows of this rank")
        return slice(0, total)
    known = _checked(rank, counts)
    match layout:
        case Layout.LOCAL:
            return _local(rank, known, total)
        case Layout.DECODE_GRAPH:
            return _strided(rank, known, stride, total)
        case Layout.EAGER | Layout.PREFILL_GRAPH:
            return _dense(rank, known, layout, total)
    raise ValueError(f"layout {layout!r} is unknown; use one of {list(Layout)}")


def _local(rank: int, counts: Sequence[int], total: int | None) -> slice:
    if total is not None and total != counts[rank]:
        raise ValueError(f"total={total}, but rank {rank} has {counts[rank]} rows of {counts}")
    return slice(0, counts[rank])


def _dense(rank: int, counts: Sequence[int], layout: Layout, total: int | None) -> slice:
    ends = list(accumulate(counts))
    is_wrong = total is not None and (
        total < ends[-1] if layout == Layout.PREFILL_GRAPH else total != ends[-1]
    )
    if is_wrong:
        raise ValueError(
            f"counts {counts} add up to {ends[-1]} rows, but the {layout} batch has {total}; "
            "the counts are of another step"
        )
    return slice(ends[rank] - counts[rank], ends[rank])


def _strided(rank: int, counts: Sequence[int], stride: int | None, total: int | None) -> slice:
    if stride is None:
        raise ValueError("a decode graph needs stride, the rows that it has for each rank")
    for other, count in enumerate(counts):
        if count > stride:
            raise ValueError(
                f"{count} rows of rank {other} do not fit the stride of {stride}; replay a "
                "larger graph, or run eager"
            )
    if total is not None and total != stride * len(counts):
        raise ValueError(
            f"{len(counts)} ranks of stride {stride} make {stride * len(counts)} rows, but the "
            f"decode graph has {total}"
        )
    return slice(rank * stride, rank * stride + counts[rank])


def _checked(rank: int, counts: Sequence[int] | None) -> Sequence[int]:
    if counts is None:
        raise ValueError(
            "the rows of each rank are missing, as they are while a graph is captured; gather "
            "them first, or use layout 'local'"
        )
    # Not any Sequence: going through a tensor reads it, element by element.
    if not isinstance(counts, list | tuple):
        raise _not_host("counts", counts, "a list or tuple of Python integers")
    for other, count in enumerate(counts):
        _check_count(f"counts[{other}]", count)
    if rank >= len(counts):
        raise ValueError(f"rank {rank} is none of {len(counts)} ranks, counts {counts}")
    return counts


def _check_count(name: str, value: object) -> None:
    # Not operator.index: tensors have __index__, and reading it is what must not happen.
    if type(value) is not int:
        raise _not_host(name, value, "a Python integer")
    if value < 0:
        raise ValueError(f"{name}={value} is negative")


def _not_host(name: str, value: object, wanted: str) -> TypeError:
    # The type only: the text of a device tensor is read from the device.
    return TypeError(
        f"{name} is a {type(value).__module__}.{type(value).__qualname__}; give {wanted}: a "
        "slice bound that is a tensor makes Python read it and wait for the device"
    )
