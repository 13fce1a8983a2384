"""Frames: what travels between ranks, of one fixed size whatever is said.

Collectives of different sizes end a gloo process with SIGABRT, and different collectives make
all ranks wait for their time limit. So every exchange is the same collective on the same number
of words, and the frame says what it is about: ranks that do not do the same learn it at once,
all of them, from the same rows.
"""

import zlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aio_sched.parallel.errors import FrameError, RankMismatchError

__all__ = ["FRAME_WORDS", "MAX_KIND", "MAX_VALUES", "Frame", "check_kind", "decode", "verify"]

#: Integers that one frame can carry.
MAX_VALUES = 32
#: Characters of a kind's name, ASCII.
MAX_KIND = 24

_MAGIC = 0x61696F2D72616E6B  # "aio-rank"
_VERSION = 1
_KIND_WORDS = MAX_KIND // 8
# Magic, version, checksum; epoch, number, rank, size, count; the kind; the values.
_CHECKED_FROM = 3
_KIND_AT = 8
_VALUES_AT = _KIND_AT + _KIND_WORDS
#: Words of 64 bits in every frame.
FRAME_WORDS = _VALUES_AT + MAX_VALUES
_INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class Frame:
    """What one rank says in one exchange.

    Attributes:
        kind: what the values are, a short name.
        epoch: how often the group was rebuilt.
        number: of the exchange in this epoch, from 1.
        rank: who says it.
        size: ranks in the group, as this rank believes.
        values: at most ``MAX_VALUES`` integers of 64 bits.
    """

    kind: str
    epoch: int
    number: int
    rank: int
    size: int
    values: tuple[int, ...]

    def __str__(self) -> str:
        return f"exchange {self.number} ({self.kind!r}) of epoch {self.epoch}"

    def encode(self) -> "array[int]":
        """Return the frame as ``FRAME_WORDS`` words.

        Raises:
            ValueError: the kind is no short name, there are too many values, or one is too large.
            TypeError: a value is no integer.
        """
        name = check_kind(self.kind).ljust(MAX_KIND, b"\0")
        words = array("q", bytes(8 * FRAME_WORDS))
        words[0], words[1] = _MAGIC, _VERSION
        words[3], words[4], words[5] = self.epoch, self.number, self.rank
        words[6], words[7] = self.size, len(self.values)
        words[_KIND_AT:_VALUES_AT] = array("q", name)
        words[_VALUES_AT : _VALUES_AT + len(self.values)] = _integers(self.kind, self.values)
        words[2] = _checksum(words)
        return words


def check_kind(kind: str) -> bytes:
    """Return the name of a kind as bytes.

    Raises:
        ValueError: empty, too long, or not plain ASCII.
    """
    if not 0 < len(kind) <= MAX_KIND or not kind.isascii() or not kind.isprintable():
        raise ValueError(
            f"{kind!r} names no kind of exchange; use 1 to {MAX_KIND} printable ASCII characters"
        )
    return kind.encode()


def decode(words: Sequence[int], rank: int) -> Frame:
    """Read the frame that came from ``rank``.

    Raises:
        FrameError: it is none, of another version of the library, or damaged.
    """
    row = array("q", words)
    if len(row) != FRAME_WORDS or row[0] != _MAGIC:
        raise FrameError(
            f"what came from rank {rank} is no frame; is all of its traffic ours?", (rank,)
        )
    if row[1] != _VERSION:
        raise FrameError(
            f"rank {rank} speaks version {row[1]} of the frames and this one {_VERSION}; run the "
            "same version of aio-sched on every rank",
            (rank,),
        )
    if row[2] != _checksum(row) or not 0 <= row[7] <= MAX_VALUES:
        raise FrameError(f"the frame of rank {rank} was damaged on its way (checksum)", (rank,))
    kind = row[_KIND_AT:_VALUES_AT].tobytes().rstrip(b"\0").decode("ascii", "replace")
    values = tuple(row[_VALUES_AT : _VALUES_AT + row[7]])
    return Frame(kind, row[3], row[4], row[5], row[6], values)


def verify(own: Frame, rows: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Return the values of each rank, if all ranks do the same.

    Every rank verifies the same rows, so if one raises, all do.

    Args:
        own: what this rank said.
        rows: the words that came from each rank, by rank.

    Raises:
        FrameError: a row is no frame, or a damaged one.
        RankMismatchError: ranks differ in kind, epoch, number, size, count, or order.
    """
    frames = [decode(row, rank) for rank, row in enumerate(rows)]
    if all(_is_alike(own, frame, rank) for rank, frame in enumerate(frames)):
        return tuple(frame.values for frame in frames)
    raise _mismatch(own, frames)


def _is_alike(own: Frame, frame: Frame, rank: int) -> bool:
    return (
        frame.number == own.number
        and frame.kind == own.kind
        and frame.epoch == own.epoch
        and frame.size == own.size
        and frame.rank == rank
        and len(frame.values) == len(own.values)
    )


# What must be the same on all ranks, and how to name it.
_SHARED: tuple[tuple[str, Callable[[Frame], object]], ...] = (
    ("epoch", lambda frame: frame.epoch),
    ("group size", lambda frame: frame.size),
    ("kind", lambda frame: frame.kind),
    ("exchange number", lambda frame: frame.number),
    ("number of values", lambda frame: len(frame.values)),
)


def _mismatch(own: Frame, frames: list[Frame]) -> RankMismatchError:
    """Say what differs first, and name the ranks that are in the minority with it."""
    for name, field in _SHARED:
        said = [field(frame) for frame in frames]
        if len(set(said)) > 1:
            usual = max(said, key=said.count)  # of equally many, what the lowest rank says
            odd = tuple(rank for rank, value in enumerate(said) if value != usual)
            others = ", ".join(f"rank {rank} has {said[rank]!r}" for rank in odd)
            return RankMismatchError(
                f"ranks do not agree on the {name} in {own}: {others}, the others {usual!r}; make "
                "every rank run the same exchanges, decided by gathered data only",
                odd,
            )
    misplaced = tuple(rank for rank, frame in enumerate(frames) if frame.rank != rank)
    return RankMismatchError(
        f"the rows of {own} are not in order of rank: places {misplaced} hold ranks "
        f"{tuple(frames[rank].rank for rank in misplaced)}; give each process a rank of its own",
        misplaced,
    )


def _integers(kind: str, values: Sequence[int]) -> "array[int]":
    if len(values) > MAX_VALUES:
        raise ValueError(
            f"{len(values)} values for an exchange of {kind!r}; a frame has room for {MAX_VALUES}"
        )
    for value in values:
        # Tensors would do, too: their values would be read, and the loop wait for the device.
        if not isinstance(value, int):
            raise TypeError(
                f"a {type(value).__module__}.{type(value).__qualname__} in an exchange of "
                f"{kind!r}; give Python integers"
            )
    try:
        return array("q", values)
    except OverflowError as error:
        large = next(value for value in values if not -_INT64 <= value < _INT64)
        raise ValueError(f"{large} in an exchange of {kind!r} does not fit 64 bits") from error


def _checksum(words: "array[int]") -> int:
    return zlib.crc32(memoryview(words)[_CHECKED_FROM:])
