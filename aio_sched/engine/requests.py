"""What is asked of the engine, and how it ends."""

import enum
import struct
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from types import UnionType
from typing import TYPE_CHECKING

from aio_sched.engine.constrained.constraints import Constraint
from aio_sched.engine.constrained.guide import Guide
from aio_sched.wakeup import Wakeup
from buffers.slots import Slot

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FinishReason", "Request", "SamplingParams"]


class FinishReason(enum.Enum):
    """Why a request has no further tokens."""

    END_OF_TEXT = "end_of_text"
    STOP = "stop"
    LENGTH = "length"
    ABORTED = "aborted"
    ERROR = "error"


@dataclass(frozen=True)
class SamplingParams:
    """How to continue a prompt.

    Attributes:
        max_tokens: tokens to generate at most.
        temperature: 0 takes the likeliest token; above, tokens are drawn.
        seed: of the draws; the same request with the same seed gives the same
            tokens, whatever else runs.
        stop: ends the text after the first occurrence of these bytes.
        constraint: what the whole text must be like, unless ``max_tokens`` or ``stop`` cuts it
            off; ``Regex`` and ``JsonSchema`` are there.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a value out of range.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    stop: bytes | None = None
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        # What is wrong must not get into a step, where it would hurt the others.
        _check_type("max_tokens", self.max_tokens, int)
        _check_type("temperature", self.temperature, float | int)
        _check_type("seed", self.seed, int)
        _check_type("stop", self.stop, bytes | None)
        _check_type("constraint", self.constraint, Constraint | None)
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens={self.max_tokens} is below 1")
        if not 0.0 <= self.temperature <= 100.0:
            raise ValueError(f"temperature={self.temperature} is not within 0 and 100")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} does not fit into 64 bits")
        if self.stop == b"":
            raise ValueError("stop is empty; use None for no stop text")

    @cached_property
    def temperature_bits(self) -> int:
        """The temperature's float64 as an int64, to travel in a table of integers."""
        [bits] = struct.unpack("<q", struct.pack("<d", self.temperature))
        return int(bits)


def _check_type(name: str, value: object, kind: type | UnionType) -> None:
    if not isinstance(value, kind):
        wanted = getattr(kind, "__name__", kind)
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; give {wanted}")


@dataclass(eq=False)
class Request:
    """A prompt on its way through the engine; the issuer's bookkeeping on it.

    Attributes:
        slot: its rows in the KV cache and the relay; None while it waits.
        num_prefilled: prompt tokens whose prefill is enqueued.
        num_scheduled: output tokens whose sampling is enqueued; with a guide, whose logits
            are, from which a later step samples.
        num_claims: steps on the device that use the slot.
        output: tokens that were published.
        unread: published tokens that the reader has not taken yet; ``max_tokens`` at
            most, however slow the reader is.
        news: wakes the reader, of which there is one.
        is_read: whether a reader is at it.
        guide: where it stands in its constraint; None without one.
        error: why it failed, or why it was aborted if nobody asked for that.
        routed_experts: int16 ``[tokens, layers, top_k]`` once it has ended, if the engine was
            made with ``capture_experts``: which experts each layer chose, best first, for each
            token that the model has read: the prompt and all that was sampled, the end of the
            text too, but for the last one. None before the first token, and after an error.
    """

    id: int
    prompt: bytes
    params: SamplingParams
    slot: Slot | None = None
    num_prefilled: int = 0
    num_scheduled: int = 0
    num_claims: int = 0
    output: bytearray = field(default_factory=bytearray)
    unread: deque[int] = field(default_factory=deque)
    news: Wakeup = field(default_factory=Wakeup)
    is_read: bool = False
    guide: Guide | None = None
    finish: FinishReason | None = None
    error: BaseException | None = None
    routed_experts: "Tensor | None" = None

    @property
    def num_to_prefill(self) -> int:
        """Prompt tokens whose prefill is not enqueued yet; 0 once it has ended."""
        return 0 if self.finish is not None else len(self.prompt) - self.num_prefilled

    @property
    def can_decode(self) -> bool:
        """Whether a next token can be scheduled."""
        is_prefilled = self.num_to_prefill == 0
        has_more = self.num_scheduled < self.params.max_tokens + (self.guide is not None)
        return is_prefilled and has_more and self.finish is None

    @property
    def position(self) -> int:
        """Position of the newest scheduled token: the next decode's input."""
        return len(self.prompt) + self.num_scheduled - 1

    def take(self, token: int, end_of_text: int, *, is_complete: bool = False) -> None:
        """Add one published token, and finish if it was the last one.

        Args:
            token: what was sampled.
            end_of_text: the token that ends a text.
            is_complete: nothing but the end of the text can follow the token.
        """
        if self.finish is not None:
            return  # sampled by a step that was in flight when the text ended
        if token == end_of_text:
            self.end(FinishReason.END_OF_TEXT)
            return
        self.output.append(token)
        self.unread.append(token)
        stop = self.params.stop
        if stop is not None and self.output.endswith(stop):
            self.end(FinishReason.STOP)
        elif is_complete:
            self.end(FinishReason.END_OF_TEXT)
        elif len(self.output) == self.params.max_tokens:
            self.end(FinishReason.LENGTH)
        else:
            self.news.set()

    def end(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """Finish, once; later reasons are ignored."""
        if self.finish is None:
            self.finish, self.error = reason, error
            self.news.set()
