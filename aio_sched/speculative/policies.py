"""What can be chosen: where a verify is planned, and what the host knows of lengths."""

import enum
from typing import Self

__all__ = ["HostLengths", "PlanPolicy"]


class _Named(enum.Enum):
    @classmethod
    def named(cls, name: str, argument: str) -> Self:
        """Return the policy of a name.

        Args:
            name: of a policy.
            argument: what the name was given as, for the error.

        Raises:
            ValueError: there is none.
        """
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(repr(policy.value) for policy in cls)
            raise ValueError(f"{argument}={name!r} is unknown; use one of {known}") from None


class PlanPolicy(_Named):
    """Where a verify is planned, and behind what."""

    TARGETED = "targeted"
    """On the plan stream, behind the event where the draft's accesses to shared memory are
    enqueued to their end, so that planning overlaps the draft. Behind the whole draft where
    the step posted none."""
    WHOLE_DRAFT = "whole_draft"
    """On the plan stream, behind all of the draft."""
    OFF = "off"
    """On the forward stream, between draft and verify."""


class HostLengths(_Named):
    """Whether prepare learns how far the texts have come."""

    EXACT = "exact"
    """It waits for what the step before publishes, in the middle of that step's forward, so
    that no step works for a text that has its length. Of one that ended by its bytes (a stop
    text, the end of text) it learns with the tokens, perhaps a step later."""
    NONE = "none"
    """It never waits, and plans for the least that each step gives: one token. Steps that
    are in flight when a text is complete are wasted."""
