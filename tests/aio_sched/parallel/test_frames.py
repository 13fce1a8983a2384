"""Frames: one size, whatever they say, and a word for each way in which ranks can differ."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aio_sched.parallel import MAX_KIND, MAX_VALUES, RankMismatchError
from aio_sched.parallel.errors import FrameError
from aio_sched.parallel.frames import FRAME_WORDS, Frame, decode, verify

KINDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=MAX_KIND)
WORDS = st.integers(-(2**63), 2**63 - 1)
USUAL = Frame("batch", 1, 7, 0, 3, (4, 5))


def _rows(*frames: Frame) -> list[list[int]]:
    return [list(frame.encode()) for frame in frames]


def _said(rank: int, **other: object) -> Frame:
    fields = {name: getattr(USUAL, name) for name in USUAL.__slots__}
    return Frame(**{**fields, "rank": rank, **other})


@given(kind=KINDS, values=st.lists(WORDS, max_size=MAX_VALUES), epoch=st.integers(0, 2**40))
def test_a_frame_is_read_as_it_was_written(kind: str, values: list[int], epoch: int) -> None:
    """Whatever is said comes out again, in the same number of words."""
    frame = Frame(kind, epoch, 3, 2, 16, tuple(values))
    words = frame.encode()
    assert len(words) == FRAME_WORDS
    assert decode(words, 2) == frame


@given(at=st.integers(0, FRAME_WORDS - 1), bit=st.integers(0, 62))
def test_a_flipped_bit_is_found_wherever_it_is(at: int, bit: int) -> None:
    """No word of a frame can change unseen, and the error names the rank that it came from."""
    words = USUAL.encode()
    words[at] ^= 1 << bit
    with pytest.raises(FrameError, match="rank 5") as caught:
        decode(words, 5)
    assert caught.value.ranks == (5,)


def test_zeros_are_no_frame() -> None:
    """The buffer of a collective that was broken holds no frame, also if it is blank."""
    with pytest.raises(FrameError, match="rank 1 is no frame"):
        verify(USUAL, [USUAL.encode(), [0] * FRAME_WORDS, USUAL.encode()])


def test_ranks_that_do_the_same_get_the_values_by_rank() -> None:
    """Nothing but the values may differ."""
    rows = _rows(USUAL, _said(1, values=(6, 7)), _said(2, values=(8, 9)))
    assert verify(USUAL, rows) == ((4, 5), (6, 7), (8, 9))


@pytest.mark.parametrize(
    ("differs", "words"),
    [
        ({"kind": "delay"}, "agree on the kind.*rank 1 has 'delay', the others 'batch'"),
        ({"epoch": 2}, "agree on the epoch.*rank 1 has 2, the others 1"),
        ({"number": 8}, "agree on the exchange number.*rank 1 has 8"),
        ({"size": 4}, "agree on the group size.*rank 1 has 4"),
        ({"values": (1,)}, "agree on the number of values.*rank 1 has 1, the others 2"),
    ],
)
def test_every_rank_names_the_one_that_differs(differs: dict[str, object], words: str) -> None:
    """All ranks, the odd one too, raise the same about the same rank."""
    frames = [_said(0), _said(1, **differs), _said(2)]
    for own in frames:
        with pytest.raises(RankMismatchError, match=words) as caught:
            verify(own, _rows(*frames))
        assert caught.value.ranks == (1,)


def test_two_processes_of_one_rank_are_named() -> None:
    """Rows in a wrong place are no exchange."""
    with pytest.raises(RankMismatchError, match=r"places \(2,\) hold ranks \(1,\)"):
        verify(_said(0), _rows(_said(0), _said(1), _said(1)))


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (_said(0, kind=""), "'' names no kind"),
        (_said(0, kind="ü"), "names no kind"),
        (_said(0, kind="k" * (MAX_KIND + 1)), "names no kind"),
        (_said(0, values=(0,) * (MAX_VALUES + 1)), "a frame has room for 32"),
        (_said(0, values=(1, 2**63)), "9223372036854775808 .* does not fit 64 bits"),
    ],
)
def test_what_no_frame_can_carry_is_refused(frame: Frame, words: str) -> None:
    """The caller's mistake is found before anything travels, with the value in question."""
    with pytest.raises(ValueError, match=words):
        frame.encode()


@pytest.mark.parametrize("value", [torch.zeros((), dtype=torch.int64, device="meta"), 1.0, "1"])
def test_what_is_no_python_integer_is_refused_unread(value: object) -> None:
    """A tensor of the meta device cannot be read; one of a device would make the loop wait."""
    frame = _said(0, values=(1, value))
    with pytest.raises(TypeError, match=r"in an exchange of 'batch'; give Python integers"):
        frame.encode()
