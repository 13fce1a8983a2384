"""Where a constrained request stands, and what it may write next."""

from collections.abc import Iterable

from aio_sched.engine.constrained.constraints import Constraint
from aio_sched.engine.errors import ConstraintError

__all__ = ["Guide"]

NUM_TOKENS = 256


class Guide:
    """Leads one request through its constraint; has an answer ready for the next mask.

    Raises:
        ConstraintError: the constraint cannot be understood, or no text meets it.

    Attributes:
        allowed: flags of the tokens that may come next, see ``Automaton.allowed``; never all 0.
    """

    def __init__(self, constraint: Constraint) -> None:
        self._constraint = constraint
        self._automaton = constraint.automaton()
        self.allowed = self._ask("no text at all meets it")

    @property
    def must_end(self) -> bool:
        """Whether the text is complete and nothing but its end may follow."""
        return self.allowed.count(0, 1) == NUM_TOKENS - 1

    def advance(self, token: int) -> None:
        """Go on by one byte of the text, and find out what may follow it.

        Raises:
            ConstraintError: a dead end; ``allowed`` stays what it was.
        """
        self._automaton.advance(token)
        self.allowed = self._ask(f"no token may follow byte {token}")

    def _ask(self, dead_end: str) -> bytes:
        # A copy: the automaton may use its array again before these are uploaded.
        flags = _flags_of(self._automaton.allowed())
        if len(flags) != NUM_TOKENS:
            raise ConstraintError(
                f"{self._constraint!r} gave {len(flags)} flags; Automaton.allowed() gives "
                f"{NUM_TOKENS}, one for the end of the text and one for each byte from 1 on"
            )
        if not any(flags):
            raise ConstraintError(
                f"{self._constraint!r} is at a dead end: {dead_end}, nor may the text end; correct "
                "it (byte 0 is the end of a text and never part of one)"
            )
        return flags


def _flags_of(answer: object) -> bytes:
    """Take any array of small integers; ``bytes`` of a number would be so many zeros."""
    if not isinstance(answer, Iterable):
        raise ConstraintError(f"Automaton.allowed() gave {answer!r}; it gives {NUM_TOKENS} flags")
    return bytes(answer)
