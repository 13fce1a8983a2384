"""Who asked for what, and how each asking ended."""

import asyncio
import enum
from collections.abc import Awaitable, Hashable
from typing import Any, NamedTuple

from streams.clock import perf_s

__all__ = ["End", "How", "Ledger"]


class How(enum.Enum):
    """How a request can end."""

    RESULT = "result"
    ERROR = "error"
    CANCELLED = "cancelled"


class End(NamedTuple):
    """One end of a request; ``value`` is its result or its error, ``at_s`` when it came."""

    how: How
    value: Any
    at_s: float


class Ledger:
    """Counts the ends of requests: each that was submitted must have exactly one.

    Attributes:
        ends: of each request that was submitted, in order.
    """

    def __init__(self) -> None:
        self.ends: dict[Hashable, list[End]] = {}

    def submit(self, name: Hashable) -> None:
        """Note a request."""
        assert name not in self.ends, f"{name!r} was submitted before"
        self.ends[name] = []

    def end(self, name: Hashable, how: How, value: Any = None) -> None:
        """Note an end, a second one too."""
        self.ends[name].append(End(how, value, perf_s()))

    async def follow(self, name: Hashable, asking: Awaitable[Any]) -> None:
        """Submit a request and await its end; an error is noted and goes no further."""
        self.submit(name)
        try:
            value = await asking
        except asyncio.CancelledError as cancelled:
            self.end(name, How.CANCELLED, cancelled)
            raise
        except Exception as error:
            self.end(name, How.ERROR, error)
        else:
            self.end(name, How.RESULT, value)

    def ended(self, how: How) -> dict[Hashable, Any]:
        """Return the requests that ended so, each with its result or error."""
        return {
            name: end.value for name, ends in self.ends.items() for end in ends if end.how is how
        }

    def check(self) -> None:
        """Raise unless every request has exactly one end."""
        odd = {name: ends for name, ends in self.ends.items() if len(ends) != 1}
        assert not odd, f"of {len(self.ends)} requests {len(odd)} have not exactly one end: {odd}"
