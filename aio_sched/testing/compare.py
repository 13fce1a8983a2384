"""Whether two runs came to the same results."""

from typing import Any

import torch

__all__ = ["differs", "same"]


def same(expected: Any, seen: Any, *, may_fail: bool = False) -> bool:
    """Whether ``seen`` is what was ``expected``.

    Args:
        expected: anything that compares; tensors, also in tuples, lists and dicts, by their
            elements, dtypes and shapes. Exceptions are the same if their types are.
        seen: to compare with it.
        may_fail: an exception anywhere counts as the same as whatever was expected there.
    """
    return differs(expected, seen, may_fail=may_fail) is None


def differs(expected: Any, seen: Any, *, may_fail: bool = False, at: str = "result") -> str | None:
    """Say where ``seen`` is not what was ``expected``; None if it is."""
    if isinstance(seen, BaseException):
        is_same = may_fail or type(seen) is type(expected)
        return None if is_same else f"{at} is {seen!r} instead of {_short(expected)}"
    if isinstance(expected, torch.Tensor) and isinstance(seen, torch.Tensor):
        is_same = expected.dtype == seen.dtype and _equal(expected, seen)
        return None if is_same else f"{at} is {_short(seen)} instead of {_short(expected)}"
    if isinstance(expected, dict) and isinstance(seen, dict) and expected.keys() == seen.keys():
        pairs = [(f"{at}[{key!r}]", expected[key], seen[key]) for key in expected]
    elif (
        isinstance(expected, list | tuple)
        and isinstance(seen, list | tuple)
        and len(expected) == len(seen)
    ):
        places = zip(expected, seen, strict=True)
        pairs = [(f"{at}[{place}]", *both) for place, both in enumerate(places)]
    else:
        is_same = type(expected) is type(seen) and _is_equal(expected, seen)
        return None if is_same else f"{at} is {_short(seen)} instead of {_short(expected)}"
    found = (differs(one, other, may_fail=may_fail, at=place) for place, one, other in pairs)
    return next(filter(None, found), None)


def _equal(expected: torch.Tensor, seen: torch.Tensor) -> bool:
    if torch.equal(expected, seen):
        return True
    # What is not a number, not even itself, is the same where both are not.
    both = (
        (expected == seen) | ((expected != expected) & (seen != seen))
        if (expected.shape == seen.shape)
        else torch.tensor(False)
    )
    return bool(both.all())


def _is_equal(expected: Any, seen: Any) -> bool:
    equal = expected == seen
    if hasattr(equal, "all"):  # an array of another library
        return expected.shape == seen.shape and bool((equal | _both_nan(expected, seen)).all())
    return bool(equal) or bool(_both_nan(expected, seen))


def _both_nan(expected: Any, seen: Any) -> Any:
    return (expected != expected) & (seen != seen)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 80 else text[:77] + "..."
