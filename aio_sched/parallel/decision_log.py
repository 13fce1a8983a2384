"""What a rank has decided, as a chain of digests: pure, so that two ranks' can be compared.

Each digest covers all decisions so far. Ranks that decide the same have the same chain, and
from the first difference on all digests differ.
"""

from collections import deque
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

__all__ = ["DecisionLog", "Difference", "Noted", "first_difference"]


class Noted(NamedTuple):
    """One decision.

    Attributes:
        number: from 1, of all that were noted.
        step: which it belongs to.
        text: its name and values.
        digest: of all decisions up to this one, 64 bits, signed, never 0.
    """

    number: int
    step: int
    text: str
    digest: int


class Difference(NamedTuple):
    """Where chains of several ranks part.

    Attributes:
        number: of the first decision that differs among those that are still known.
        ranks: those that are in the minority with it; of equally many, not rank 0's.
        is_first: no earlier one can differ.
    """

    number: int
    ranks: tuple[int, ...]
    is_first: bool


class DecisionLog:
    """The latest decisions of a rank.

    Args:
        window: how many are kept.

    Attributes:
        step: which decisions belong to from now on.

    Raises:
        ValueError: the window is below 1.
    """

    def __init__(self, window: int = 24) -> None:
        if window < 1:
            raise ValueError(f"window={window} keeps no decision to compare; use at least 1")
        self.window = window
        self.step = 0
        self._latest: deque[Noted] = deque(maxlen=window)
        self._num_noted = 0

    @property
    def digest(self) -> int:
        """The digest of everything noted so far; 1 before the first."""
        return self._latest[-1].digest if self._latest else 1

    def note(self, name: str, *values: int) -> None:
        """Add a decision: what was decided on, and what was decided."""
        text = f"{name}{values}"
        hashed = blake2b(f"{self.digest} {self.step} {text}".encode(), digest_size=8)
        # The lowest bit is given up: 0 is what a rank states that keeps no log.
        digest = int.from_bytes(hashed.digest(), "little", signed=True) | 1
        self._num_noted += 1
        self._latest.append(Noted(self._num_noted, self.step, text, digest))

    def at(self, number: int) -> Noted | None:
        """Return the decision of this number; None if it is not known any more, or not yet."""
        return next((noted for noted in self._latest if noted.number == number), None)

    def row(self) -> tuple[int, ...]:
        """Return ``1 + window`` integers: how many were noted, and the latest digests."""
        digests = [noted.digest for noted in self._latest]
        return (self._num_noted, *(0,) * (self.window - len(digests)), *digests)


def first_difference(rows: Sequence[Sequence[int]]) -> Difference | None:
    """Find where the ranks' decisions part, from what ``DecisionLog.row`` gave on each.

    Returns:
        The place; None if they do not part.
    """
    chains = [_numbered(row) for row in rows]
    # What a rank has forgotten cannot be compared with what the others still know.
    begin = max(row[0] - len(row) + 2 for row in rows)
    begin = max(1, begin)
    for number in range(begin, max(row[0] for row in rows) + 1):
        said = [chain.get(number) for chain in chains]
        if len(set(said)) > 1:
            usual = max(said, key=said.count)
            odd = tuple(rank for rank, digest in enumerate(said) if digest != usual)
            return Difference(number, odd, number == 1 or number > begin)
    return None


def _numbered(row: Sequence[int]) -> dict[int, int]:
    num_noted, *digests = row
    first = num_noted - len(digests) + 1
    return {first + place: digest for place, digest in enumerate(digests) if digest}
