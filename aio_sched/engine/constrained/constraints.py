"""What a text must be like: the protocol of constraints, without any library behind it.

``grammar.py`` has regular expressions and JSON schemas; a constraint of your own is a class with
one method.
"""

from typing import Protocol, runtime_checkable

__all__ = ["Automaton", "Constraint"]


class Automaton(Protocol):
    """Follows one text byte by byte, and says what may come next.

    For one request only, on the event loop's thread. What it raises fails its request.
    """

    def allowed(self) -> bytes:
        """Say which tokens may come next.

        Returns:
            256 flags, not 0 where a token is allowed. Index 0 is the end of the text; the others
            are the bytes. All 0 is a dead end, which fails the request.
        """

    def advance(self, token: int) -> None:
        """Go on to the state behind one more byte, 1 to 255, which ``allowed`` had."""


@runtime_checkable
class Constraint(Protocol):
    """What one or many requests' texts must be like; has no state."""

    def automaton(self) -> Automaton:
        """Make the automaton of one request, at the beginning of its text.

        Called when the request is submitted, so that what is wrong is told there.

        Raises:
            ConstraintError: the constraint cannot be understood.
        """
