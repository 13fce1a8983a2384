"""What the two sides say to each other.

    prefill side                      decode side
    Hello                       <->   Hello, with places for so many requests at once
    HandOver                     ->
                                <-    Progress: tokens, and requests that ended
    Abort                        ->   Progress, the place is free again
    Ping                        <->   Pong, by whoever is asked
    Bye                         <->   Bye: an orderly end; Refused: no beginning

A ``HandOver`` takes a place, and its end in a ``Progress`` gives it back.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from aio_sched.disaggregated.fingerprint import ModelIdentity
from aio_sched.engine.requests import FinishReason, SamplingParams

__all__ = ["Abort", "Bye", "Ended", "HandOver", "Hello", "Message", "Ping", "Pong", "Progress"]
__all__ += ["Refused"]


@dataclass(frozen=True)
class Hello:
    """Who is there.

    Attributes:
        role: ``"prefill"`` or ``"decode"``.
        name: names this side in the other one's errors.
        model: of the rows that are handed over.
        places: requests that the decode side takes at once; 0 from the prefill side.
    """

    role: str
    name: str
    model: ModelIdentity
    places: int = 0


@dataclass(frozen=True, eq=False)
class HandOver:
    """A request whose prompt was read, with what its first decode step needs.

    Attributes:
        id: of the request, unique among those of its link.
        first_token: sampled behind the prompt; its keys and values are not among the rows.
        keys: float ``[tokens of the prompt, layers, heads, head_dim]``, contiguous, in host
            memory that nobody writes any more.
        values: as ``keys``.
    """

    id: int
    prompt: bytes
    params: SamplingParams
    first_token: int
    keys: Tensor = field(repr=False)
    values: Tensor = field(repr=False)


@dataclass(frozen=True)
class Ended:
    """A request has ended on the decode side, whose place is free.

    Attributes:
        error: what that side knows about a failure, empty without one.
    """

    id: int
    reason: FinishReason
    error: str = ""


@dataclass(frozen=True)
class Progress:
    """What has happened on the decode side since the last one.

    Attributes:
        tokens: by request, in the order of its text.
        ended: requests that have no tokens behind those in ``tokens``.
    """

    tokens: tuple[tuple[int, bytes], ...] = ()
    ended: tuple[Ended, ...] = ()


@dataclass(frozen=True)
class Abort:
    """Nobody wants further tokens of a request that was handed over."""

    id: int


@dataclass(frozen=True)
class Ping:
    """Asks whether the other side is there."""


@dataclass(frozen=True)
class Pong:
    """Answers a ``Ping``."""


@dataclass(frozen=True)
class Refused:
    """The link ends before it began.

    Attributes:
        why: for the other side's error.
    """

    why: str


@dataclass(frozen=True)
class Bye:
    """The sender closes the link, and wants nothing any more."""


Message: TypeAlias = Hello | HandOver | Progress | Abort | Ping | Pong | Refused | Bye
