"""Which requests make the next step: a pure policy, no torch, no device, no await."""

from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

__all__ = ["Chunk", "Limits", "Plan", "Schedulable", "plan_step"]


class Schedulable(Protocol):
    """What the policy looks at in a request that holds a slot."""

    @property
    def num_prefilled(self) -> int:
        """Prompt tokens whose prefill is enqueued."""

    @property
    def num_to_prefill(self) -> int:
        """Prompt tokens whose prefill is not enqueued yet."""

    @property
    def can_decode(self) -> bool:
        """Whether a next token can be scheduled."""


R = TypeVar("R", bound=Schedulable)


class Limits(NamedTuple):
    """Sizes that every step is padded to.

    Attributes:
        max_running: rows of a decode step.
        prefill_rows: rows of a prefill step.
        chunk: prompt tokens that one row of a prefill step takes.
    """

    max_running: int
    prefill_rows: int
    chunk: int


class Chunk(NamedTuple, Generic[R]):
    """A part of one request's prompt.

    Attributes:
        is_last: the prompt ends here, so that the first token is sampled.
    """

    request: R
    start: int
    length: int
    is_last: bool


class Plan(NamedTuple, Generic[R]):
    """A step of one kind: prefill chunks, or the requests that decode one token."""

    prefill: tuple[Chunk[R], ...] = ()
    decode: tuple[R, ...] = ()

    @property
    def requests(self) -> tuple[R, ...]:
        """The requests of the step, by row."""
        return tuple(chunk.request for chunk in self.prefill) or self.decode


def plan_step(running: Sequence[R], limits: Limits, *, after_prefill: bool) -> Plan[R]:
    """Choose the next step from the requests that hold a slot, oldest first.

    Prefill goes first, since it lets new requests join the batch; but after a
    prefill step the running ones get a decode step, so that a burst of prompts does
    not silence them.

    Args:
        running: requests with a slot.
        limits: sizes of a step.
        after_prefill: whether the former step was a prefill.

    Returns:
        The plan; empty if nothing can be scheduled.
    """
    decode = tuple(request for request in running if request.can_decode)
    waiting = [request for request in running if request.num_to_prefill > 0]
    if waiting and not (after_prefill and decode):
        rows = waiting[: limits.prefill_rows]
        return Plan(prefill=tuple(_next_chunk(request, limits) for request in rows))
    return Plan(decode=decode[: limits.max_running])


def _next_chunk(request: R, limits: Limits) -> Chunk[R]:
    length = min(limits.chunk, request.num_to_prefill)
    is_last = length == request.num_to_prefill
    return Chunk(request, request.num_prefilled, length, is_last)
