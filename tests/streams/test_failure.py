"""What a kept error keeps: lines, not memory."""

import traceback
import weakref

import pytest
import torch

from streams.failure import Failure, drop_locals
from tests.streams.conformance.work import BoomError


def fail_with_a_cause(refs: list[weakref.ref[torch.Tensor]]) -> None:
    """Fail in two functions, each of which holds a tensor."""
    outer = torch.ones(1)
    refs.append(weakref.ref(outer))
    try:
        fail_deeper(refs)
    except ValueError as cause:
        raise BoomError("outer") from cause


def fail_deeper(refs: list[weakref.ref[torch.Tensor]]) -> None:
    """Fail with a tensor in hand."""
    inner = torch.ones(1)
    refs.append(weakref.ref(inner))
    raise ValueError("inner")


def test_causes_let_go_of_their_locals_too() -> None:
    """The whole chain of an error lets go of memory, and still tells every line."""
    refs: list[weakref.ref[torch.Tensor]] = []
    try:
        fail_with_a_cause(refs)
    except BoomError as error:
        kept = error
    assert [ref() is not None for ref in refs] == [True, True]
    drop_locals(kept)
    assert [ref() for ref in refs] == [None, None]
    text = "".join(traceback.format_exception(kept))
    assert 'raise BoomError("outer") from cause' in text
    assert 'raise ValueError("inner")' in text


def test_errors_that_refer_to_each_other_end() -> None:
    """A circle of contexts is walked once."""
    one, two = BoomError("one"), BoomError("two")
    one.__context__, two.__context__ = two, one
    drop_locals(one)


def test_failure_raised_again_is_seen() -> None:
    """Whoever raises it has been told."""
    failure = Failure(1, "launch", BoomError("boom"))
    assert not failure.was_seen
    with pytest.raises(BoomError):
        failure.raise_again()
    assert failure.was_seen
