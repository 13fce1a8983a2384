"""Constraints made by hand, for tests without the library behind ``Regex``."""

from dataclasses import dataclass
from itertools import pairwise

from aio_sched.engine.constrained.constraints import Automaton
from tests.aio_sched.engine.tiny import LETTERS

__all__ = ["Climbing", "Scripted", "Stumbling"]


@dataclass(frozen=True)
class Climbing:
    """Each byte is one, two or three above the last one, around the letters of the tiny model.

    Attributes:
        least: bytes before which the text may not end.
        most: bytes behind which it must.
    """

    least: int = 2
    most: int = 6

    def automaton(self) -> Automaton:
        """Begin a text."""
        return _Climb(self)

    def is_met_by(self, text: bytes) -> bool:
        """Whether a text is one of those."""
        steps = [(b - a) % len(LETTERS) for a, b in pairwise(text)]
        return self.is_begun_by(text) and len(text) >= self.least and set(steps) <= {1, 2, 3}

    def is_begun_by(self, text: bytes) -> bool:
        """Whether a text is the beginning of one of those."""
        steps = [(b - a) % len(LETTERS) for a, b in pairwise(text)]
        return len(text) <= self.most and set(text) <= set(LETTERS) and set(steps) <= {1, 2, 3}


class _Climb:
    def __init__(self, asked: Climbing) -> None:
        self._asked = asked
        self._text = bytearray()

    def allowed(self) -> bytes:
        flags = bytearray(256)
        flags[0] = len(self._text) >= self._asked.least
        if len(self._text) < self._asked.most:
            for letter in LETTERS:
                flags[letter] = not self._text or (letter - self._text[-1]) % 10 in (1, 2, 3)
        return bytes(flags)

    def advance(self, token: int) -> None:
        assert self.allowed()[token], f"{token} was not allowed after {self._text!r}"
        self._text.append(token)


@dataclass(frozen=True)
class Scripted:
    """The text is this one, and nothing else."""

    text: bytes

    def automaton(self) -> Automaton:
        """Begin the text."""
        return _Script(self.text)


class _Script:
    def __init__(self, text: bytes) -> None:
        self._left = text

    def allowed(self) -> bytes:
        flags = bytearray(256)
        flags[self._left[0] if self._left else 0] = 1
        return bytes(flags)

    def advance(self, token: int) -> None:
        assert self._left[0] == token
        self._left = self._left[1:]


@dataclass(frozen=True)
class Stumbling:
    """Allows any letter, until it goes wrong in one of several ways.

    Attributes:
        after: bytes of the text that are fine.
        how: ``"raise"``, ``"dead end"`` or ``"flags"``.
    """

    after: int
    how: str = "raise"

    def automaton(self) -> Automaton:
        """Begin a text."""
        return _Stumble(self)


class _Stumble:
    def __init__(self, asked: Stumbling) -> None:
        self._asked = asked
        self._left = asked.after

    def allowed(self) -> bytes:
        if self._left == 0 and self._asked.how == "dead end":
            return bytes(256)
        if self._left == 0 and self._asked.how == "flags":
            return b"\1"
        return bytes(number in LETTERS for number in range(256))

    def advance(self, token: int) -> None:
        self._left -= 1
        if self._left == 0 and self._asked.how == "raise":
            raise ArithmeticError("the automaton stumbled")
