"""Whether new prompts wait a pass: a pure policy, no torch, no device, no await.

Ranks that decode together take each step together, and a step takes as long as its slowest
rank's. A prefill on one rank makes all others wait; prefills on all ranks at the same time
cost no more than one. So a prefill may be worth delaying until other ranks have one too.

``decide`` gets what all ranks gathered, and what it said about the former pass; nothing
else. Ranks that gather the same decide the same.
"""

import enum
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "Decision",
    "DelayState",
    "DelayerLimits",
    "Estimate",
    "PrefillMark",
    "RankReport",
    "Reason",
    "decide",
]


class Estimate(enum.StrEnum):
    """Which ranks have a prompt that they could prefill now."""

    NONE = "none"
    MIXED = "mixed"
    ALL = "all"


class Reason(enum.StrEnum):
    """Why a pass may prefill, or may not."""

    DELAY = "delay"
    """The one refusal: it seems worth waiting."""
    NOTHING_WAITS = "nothing_waits"
    """No rank has a prompt."""
    NOTHING_RUNS = "nothing_runs"
    """No rank has anything to decode: waiting would leave all of them idle."""
    NO_WAIT = "no_wait"
    """All ranks prefill, and there is nothing to wait for."""
    WAIT_SUCCESS = "wait_success"
    """It was refused before, and what was waited for came."""
    WAIT_TIMEOUT = "wait_timeout"
    """It was refused as often, or for as long, as it may be."""
    TOKEN_WATERMARK = "token_watermark"
    """A rank uses so little of its memory that it must not be held back."""
    RESUMES = "resumes"
    """A rank has read a prompt in part: to leave it there would help nobody."""


@dataclass(frozen=True)
class DelayerLimits:
    """Settings of the delayer, the same on every rank.

    Attributes:
        max_running: requests that one rank decodes at most.
        enabled: off by default; then nothing is exchanged and nothing refused.
        max_passes: the pass by which a prefill is allowed at the latest, so that it is
            refused ``max_passes - 1`` times in a row at most. 1 never refuses.
        low_watermark: a rank whose memory is used to less than this share, 0 to 1, and
            that could prefill, lets all ranks prefill. None: no rank does.
        queue_ratio: with a prompt on every rank, wait until some queue has this many
            prompts per running request. None: do not.
        max_delay_s: seconds after the first refusal at which a prefill is allowed.
        queue_quiet_s: stop waiting for the queue when no queue has grown for this long:
            nobody comes. None: wait on.
        max_prefill: prompts that one prefill takes at most; caps what the queue is waited
            for. None takes the largest of the latest prefills, which stays near one where
            prompts come one by one.
        window: how many of a rank's latest prefills count for how large one may be.
        delay_idle: refuse also while no rank has anything running, as upstream does. Then
            a rank whose prefill was refused must make the next pass of its own accord;
            otherwise a refusal means that some rank decodes.
        delay_resumed: refuse also while a rank has read a prompt in part, as upstream does.
            Ranks with prompts of different length then wait for each other in the middle of
            them, over and over; see ``Reason.RESUMES``.

    Raises:
        ValueError: a value is out of its range.
    """

    max_running: int
    enabled: bool = False
    max_passes: int = 30
    low_watermark: float | None = None
    queue_ratio: float | None = None
    max_delay_s: float = 5.0
    queue_quiet_s: float | None = None
    max_prefill: int | None = None
    window: int = 16
    delay_idle: bool = False
    delay_resumed: bool = False

    def __post_init__(self) -> None:
        for name in ("max_running", "max_passes", "max_prefill", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is below 1")
        if self.low_watermark is not None and not 0 <= self.low_watermark <= 1:
            raise ValueError(f"low_watermark={self.low_watermark} is no share between 0 and 1")
        for name in ("queue_ratio", "max_delay_s", "queue_quiet_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value} is not positive and finite")


class RankReport(NamedTuple):
    """What one rank says in a pass: integers, since that is what travels.

    Times are measured by that rank's clock and were read before the exchange: nobody
    compares what was gathered with a clock of its own.

    Attributes:
        prefillable: 1 if it could prefill a prompt now, memory included.
        force_allow: 1 if it could, and uses less memory than the watermark.
        running: requests that it decodes.
        max_prefill: prompts of the largest of its latest prefills.
        queue: prompts that wait.
        waited_us: microseconds since the first refusal of this wait, 0 without one.
        quiet_us: microseconds since its queue last grew.
        resumes: 1 if it could prefill, and would go on with a prompt that it has read in part.
    """

    prefillable: int
    force_allow: int = 0
    running: int = 0
    max_prefill: int = 0
    queue: int = 0
    waited_us: int = 0
    quiet_us: int = 0
    resumes: int = 0


class DelayState(NamedTuple):
    """What a pass leaves to the next one; the same on every rank.

    Attributes:
        refusals: passes refused in a row.
        is_warm: the first wait with a prompt on every rank was let through: it would have
            kept the very first batch small.
    """

    refusals: int = 0
    is_warm: bool = False


class Decision(NamedTuple):
    """What holds for all ranks in this pass.

    Attributes:
        allow: prompts may be prefilled.
        estimate: which ranks have one.
        reason: why.
        refusals: how often it has been refused in a row: this time included if it is
            refused, before this pass if it is allowed.
        waited_us: microseconds that the wait has lasted on the rank that waits longest.
    """

    allow: bool
    estimate: Estimate
    reason: Reason
    refusals: int
    waited_us: int


class PrefillMark:
    """How large a prefill may be: the largest of the latest ones.

    The largest ever would not do: after one burst it holds prompts back for good. Nor
    would one that shrinks by the pass: refusals would shrink it to nothing.

    Args:
        window: how many prefills count.
    """

    def __init__(self, window: int) -> None:
        self._latest: deque[int] = deque(maxlen=window)

    @property
    def largest(self) -> int:
        """Prompts of the largest one; 0 before the first."""
        return max(self._latest, default=0)

    def prefilled(self, prompts: int) -> None:
        """Note a prefill that was made. A refused or empty one is none: it says nothing."""
        if prompts > 0:
            self._latest.append(prompts)


def decide(
    ranks: Sequence[RankReport], state: DelayState, limits: DelayerLimits
) -> tuple[Decision, DelayState]:
    """Decide for all ranks whether this pass may prefill.

    A refusal is only ever made ``max_passes - 1`` times in a row, whatever is gathered.

    Args:
        ranks: what each rank said, by rank.
        state: as the former pass left it; ``DelayState()`` at first.
        limits: the same on every rank.

    Returns:
        The decision, and what to give to the next pass.

    Raises:
        ValueError: there are no ranks.
    """
    if not ranks:
        raise ValueError("no rank has said anything; gather the reports of the group first")
    estimate = _estimate(ranks)
    wants = _is_worth_waiting(estimate, ranks, limits)
    is_first = wants and estimate is Estimate.ALL and not state.is_warm
    reason = _allowing(estimate, ranks, state, limits, wants=wants and not is_first)
    is_let_through = is_first and reason in (Reason.NO_WAIT, Reason.WAIT_SUCCESS)
    is_warm = state.is_warm or is_let_through
    waited_us = max(rank.waited_us for rank in ranks)
    if reason is None:
        refusals = state.refusals + 1
        refused = Decision(False, estimate, Reason.DELAY, refusals, waited_us)
        return refused, DelayState(refusals, is_warm)
    return Decision(True, estimate, reason, state.refusals, waited_us), DelayState(0, is_warm)


def _estimate(ranks: Sequence[RankReport]) -> Estimate:
    num_prefillable = sum(bool(rank.prefillable) for rank in ranks)
    if num_prefillable == 0:
        return Estimate.NONE
    return Estimate.ALL if num_prefillable == len(ranks) else Estimate.MIXED


def _allowing(
    estimate: Estimate,
    ranks: Sequence[RankReport],
    state: DelayState,
    limits: DelayerLimits,
    *,
    wants: bool,
) -> Reason | None:
    """Return why the pass may prefill, None if it may not; the tests are in order."""
    if estimate is Estimate.NONE:
        return Reason.NOTHING_WAITS
    if any(rank.force_allow for rank in ranks):
        return Reason.TOKEN_WATERMARK
    if not limits.delay_resumed and any(rank.resumes for rank in ranks):
        return Reason.RESUMES
    if not wants:
        return Reason.WAIT_SUCCESS if state.refusals else Reason.NO_WAIT
    if not limits.delay_idle and not any(rank.running for rank in ranks):
        return Reason.NOTHING_RUNS
    waited_us = max(rank.waited_us for rank in ranks)
    if state.refusals >= limits.max_passes - 1 or waited_us >= limits.max_delay_s * 1e6:
        return Reason.WAIT_TIMEOUT
    return None


def _is_worth_waiting(
    estimate: Estimate, ranks: Sequence[RankReport], limits: DelayerLimits
) -> bool:
    if estimate is Estimate.ALL:
        return _would_not_fit(ranks, limits) or _queue_is_short(ranks, limits)
    return estimate is Estimate.MIXED


def _would_not_fit(ranks: Sequence[RankReport], limits: DelayerLimits) -> bool:
    """Whether a prefill as large as the latest ones would find too few places."""
    free = limits.max_running - max(rank.running for rank in ranks)
    return free < max(rank.max_prefill for rank in ranks)


def _queue_is_short(ranks: Sequence[RankReport], limits: DelayerLimits) -> bool:
    """Whether more prompts are expected, compared with what runs."""
    if limits.queue_ratio is None or _is_quiet(ranks, limits):
        return False
    cap = limits.max_prefill or max(rank.max_prefill for rank in ranks)
    wanted = min(int(max(rank.running for rank in ranks) * limits.queue_ratio), cap)
    return max(rank.queue for rank in ranks) < wanted


def _is_quiet(ranks: Sequence[RankReport], limits: DelayerLimits) -> bool:
    if limits.queue_quiet_s is None:
        return False
    return min(rank.quiet_us for rank in ranks) >= limits.queue_quiet_s * 1e6
