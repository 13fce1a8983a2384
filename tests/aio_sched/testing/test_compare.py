"""When two results count as the same."""

from typing import Any

import numpy
import pytest
import torch

from aio_sched.testing.compare import differs, same


@pytest.mark.parametrize(
    "value",
    [
        1,
        "text",
        [1, (2, {"a": torch.arange(3)})],
        {"x": [torch.zeros(2, 2)]},
        ValueError("any"),
        None,
        float("nan"),
        [torch.tensor([1.0, float("nan")])],
        numpy.array([1.0, float("nan")]),
    ],
)
def test_value_is_the_same_as_itself(value: Any) -> None:
    """Also deep inside, and tensors by their elements."""
    assert same(value, value)


@pytest.mark.parametrize(
    ("expected", "seen", "where"),
    [
        (1, 2, "result is 2 instead of 1"),
        (1, 1.0, "result is 1.0 instead of 1"),
        ([1, 2], [1, 3], r"result\[1\] is 3 instead of 2"),
        ([1], [1, 2], r"result is \[1, 2\] instead of \[1\]"),
        ({"a": (1,)}, {"a": (2,)}, r"result\['a'\]\[0\] is 2"),
        ({"a": 1}, {"b": 1}, "result is "),
        (torch.zeros(2), torch.ones(2), r"result is tensor\(\[1., 1.\]\)"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), "result is tensor"),
        (torch.zeros(2), torch.zeros(3), "result is tensor"),
        (torch.zeros(2), torch.tensor([0.0, float("nan")]), "result is tensor"),
        (numpy.zeros(2), numpy.ones(2), "result is array"),
        (1, ValueError("why"), r"result is ValueError\('why'\) instead of 1"),
        (KeyError(), ValueError(), "instead of KeyError"),
    ],
)
def test_difference_is_named(expected: Any, seen: Any, where: str) -> None:
    """With its place and both values."""
    import re

    difference = differs(expected, seen)
    assert difference is not None
    assert re.search(where, difference)


def test_errors_are_excused_where_they_may_be() -> None:
    """In a disturbed run an error may stand for a result, and a wrong result may not."""
    assert same([1, 2], [1, ValueError()], may_fail=True)
    assert not same([1, 2], [2, ValueError()], may_fail=True)
