"""The policy of the prefill delayer: every row of its table, and its bounds."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aio_sched.parallel.delayer import (
    Decision,
    DelayerLimits,
    DelayState,
    Estimate,
    PrefillMark,
    RankReport,
    Reason,
    decide,
)

LIMITS = DelayerLimits(max_running=32, max_passes=4, queue_ratio=0.5, max_delay_s=2.0)
WARM = DelayState(is_warm=True)


def has(running: int = 8, queue: int = 4, mark: int = 4, **more: int) -> RankReport:
    """Return the report of a rank with a prompt."""
    return RankReport(1, running=running, queue=queue, max_prefill=mark, **more)


def hasnt(running: int = 8, **more: int) -> RankReport:
    """Return the report of a rank without one."""
    return RankReport(0, running=running, **more)


LATE_US = 2_000_000
SHORT = has(running=20, queue=2, mark=4)  # 4 are waited for: 20 running x 0.5, at most 4
FORCED = SHORT._replace(force_allow=1)
FULL = has(running=29, queue=20, mark=4)  # 3 places are left

# Reports, refusals so far; whether it is allowed, why.
TABLE: dict[str, tuple[list[RankReport], int, bool, Reason]] = {
    "none": ([hasnt(), hasnt()], 0, True, Reason.NOTHING_WAITS),
    "none resets": ([hasnt(), hasnt()], 3, True, Reason.NOTHING_WAITS),
    "all, forced": ([SHORT, FORCED], 1, True, Reason.TOKEN_WATERMARK),
    "all, no place": ([has(), FULL], 0, False, Reason.DELAY),
    "all, just places": ([has(), has(running=28)], 0, True, Reason.NO_WAIT),
    "all, no place, another's mark": ([has(mark=9), has(24)], 0, False, Reason.DELAY),
    "all, queue short": ([SHORT, SHORT], 0, False, Reason.DELAY),
    "all, one queue long": ([SHORT, has(queue=4)], 0, True, Reason.NO_WAIT),
    "all, queue short, again": ([SHORT, SHORT], 2, False, Reason.DELAY),
    "all, queue short, last pass": ([SHORT, SHORT], 3, True, Reason.WAIT_TIMEOUT),
    "all, no place, last pass": ([FULL, FULL], 3, True, Reason.WAIT_TIMEOUT),
    "all, queue short, late": (
        [SHORT, SHORT._replace(waited_us=LATE_US)],
        1,
        True,
        Reason.WAIT_TIMEOUT,
    ),
    "all, queue short, almost late": (
        [SHORT, SHORT._replace(waited_us=LATE_US - 1)],
        1,
        False,
        Reason.DELAY,
    ),
    "all": ([has(), has()], 0, True, Reason.NO_WAIT),
    "all after waiting": ([has(), has()], 2, True, Reason.WAIT_SUCCESS),
    "all, nothing prefilled before": ([has(mark=0, queue=1)] * 2, 0, True, Reason.NO_WAIT),
    "all, resumes": ([FULL, has(resumes=1)], 1, True, Reason.RESUMES),
    "all, forced and resumes": ([FORCED, has(resumes=1)], 1, True, Reason.TOKEN_WATERMARK),
    "mixed, resumes": ([has(resumes=1), hasnt()], 0, True, Reason.RESUMES),
    "mixed": ([has(), hasnt()], 0, False, Reason.DELAY),
    "mixed, forced": ([FORCED, hasnt()], 0, True, Reason.TOKEN_WATERMARK),
    "mixed, again": ([has(), hasnt()], 2, False, Reason.DELAY),
    "mixed, last pass": ([has(), hasnt()], 3, True, Reason.WAIT_TIMEOUT),
    "mixed, late": ([has(), hasnt(waited_us=LATE_US)], 1, True, Reason.WAIT_TIMEOUT),
    "mixed, nothing runs": ([has(running=0), hasnt(running=0)], 0, True, Reason.NOTHING_RUNS),
    "mixed, one runs": ([has(running=0), hasnt(running=1)], 0, False, Reason.DELAY),
}


@pytest.mark.parametrize("row", TABLE)
def test_each_row_of_the_table_is_decided_so(row: str) -> None:
    """Allowed or refused, why, how often, and from where the next pass counts."""
    reports, refusals, allow, reason = TABLE[row]
    decision, state = decide(reports, DelayState(refusals, is_warm=True), LIMITS)
    estimate = Estimate(row.partition(",")[0].partition(" ")[0])
    waited_us = max(report.waited_us for report in reports)
    counted = refusals if allow else refusals + 1
    assert decision == Decision(allow, estimate, reason, counted, waited_us)
    assert state == DelayState(0 if allow else refusals + 1, is_warm=True)


def test_first_wait_of_all_is_let_through_once() -> None:
    """The first batch ever must not stay small; from then on waiting is worth it."""
    first, state = decide([SHORT, SHORT], DelayState(), LIMITS)
    assert (first.allow, first.reason) == (True, Reason.NO_WAIT)
    assert decide([SHORT, SHORT], state, LIMITS)[0].reason is Reason.DELAY


def test_other_first_passes_do_not_use_up_the_first_wait() -> None:
    """It is there for a wait with a prompt on every rank, not for a mixed or a forced pass."""
    resumed = SHORT._replace(resumes=1)
    for reports in ([has(), hasnt()], [SHORT, FORCED], [SHORT, resumed], [has(), has()], [hasnt()]):
        assert not decide(reports, DelayState(), LIMITS)[1].is_warm


def test_queue_is_waited_for_up_to_what_one_prefill_takes() -> None:
    """A limit that is given stands in for the mark, which a trickle keeps near one."""
    trickle = [has(running=20, queue=2, mark=1)] * 2
    assert decide(trickle, WARM, LIMITS)[0].allow
    limits = DelayerLimits(max_running=32, queue_ratio=0.5, max_prefill=8)
    assert not decide(trickle, WARM, limits)[0].allow
    assert decide([has(running=20, queue=8)] * 2, WARM, limits)[0].allow


def test_quiet_queues_are_not_waited_for() -> None:
    """If no queue has grown for long, nobody comes; one that grew keeps all waiting."""
    limits = DelayerLimits(max_running=32, queue_ratio=0.5, queue_quiet_s=0.5)
    quiet, lively = SHORT._replace(quiet_us=500_000), SHORT._replace(quiet_us=499_999)
    assert decide([quiet, quiet], WARM, limits)[0].allow
    assert not decide([quiet, lively], WARM, limits)[0].allow


def test_upstream_delays_also_when_nothing_runs() -> None:
    """With ``delay_idle`` a lone prompt waits for company although every rank is idle."""
    idle = [has(running=0), hasnt(running=0)]
    assert decide(idle, WARM, LIMITS)[0].allow
    assert not decide(idle, WARM, DelayerLimits(max_running=32, delay_idle=True))[0].allow


def test_upstream_delays_also_prompts_that_were_read_in_part() -> None:
    """With ``delay_resumed`` the rest of a prompt waits like a new one."""
    resumed = [has(resumes=1), hasnt()]
    assert decide(resumed, WARM, LIMITS)[0].allow
    limits = DelayerLimits(max_running=32, delay_resumed=True)
    assert not decide(resumed, WARM, limits)[0].allow


def test_one_pass_never_refuses() -> None:
    """``max_passes=1`` lets everything through."""
    limits = DelayerLimits(max_running=32, max_passes=1, queue_ratio=0.5)
    for reports in ([has(), hasnt()], [SHORT, SHORT], [FULL, FULL]):
        assert decide(reports, WARM, limits)[0].reason is Reason.WAIT_TIMEOUT


def test_no_ranks_are_refused() -> None:
    """Nothing gathered is a mistake, not a pass without prompts."""
    with pytest.raises(ValueError, match="no rank has said anything"):
        decide([], WARM, LIMITS)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_running", (0, -1)),
        ("max_passes", (0,)),
        ("max_prefill", (0,)),
        ("window", (0,)),
        ("low_watermark", (-0.1, 1.1, float("nan"))),
        ("queue_ratio", (0.0, -1.0, float("inf"), float("nan"))),
        ("max_delay_s", (0.0, float("inf"))),
        ("queue_quiet_s", (0.0, -1.0)),
    ],
)
def test_limits_out_of_range_are_refused(name: str, values: tuple[Any, ...]) -> None:
    """Each limit says its name, its value and what is wrong."""
    for value in values:
        with pytest.raises(ValueError, match=name):
            DelayerLimits(**({"max_running": 32} | {name: value}))


def test_mark_is_the_largest_of_the_latest_prefills() -> None:
    """A burst is forgotten after a window of prefills, and refusals do not count as any."""
    mark = PrefillMark(window=3)
    assert mark.largest == 0
    for prompts, largest in ((9, 9), (2, 9), (0, 9), (0, 9), (0, 9), (3, 9), (1, 3), (1, 3)):
        mark.prefilled(prompts)
        assert mark.largest == largest


flags = st.integers(0, 1)
few = st.integers(0, 40)
times_us = st.integers(0, 3_000_000)
reports = st.builds(RankReport, flags, flags, few, few, few, times_us, times_us, flags)
passes = st.lists(st.lists(reports, min_size=2, max_size=16), min_size=1, max_size=60)
limits_of_ranks = st.builds(
    DelayerLimits,
    max_running=st.integers(1, 40),
    max_passes=st.integers(1, 8),
    queue_ratio=st.none() | st.floats(0.01, 4.0),
    max_delay_s=st.floats(0.1, 10.0),
    queue_quiet_s=st.none() | st.floats(0.1, 3.0),
    max_prefill=st.none() | st.integers(1, 40),
    delay_idle=st.booleans(),
    delay_resumed=st.booleans(),
)


@given(passes, limits_of_ranks)
def test_no_input_is_refused_too_often(
    gathered: list[list[RankReport]], limits: DelayerLimits
) -> None:
    """Whatever is gathered, ``max_passes`` passes in a row hold one that may prefill."""
    state, in_a_row = DelayState(), 0
    for each in gathered:
        before = state
        decision, state = decide(each, before, limits)
        assert decide(each, before, limits) == (decision, state), "the same again"
        in_a_row = 0 if decision.allow else in_a_row + 1
        assert in_a_row == state.refusals <= limits.max_passes - 1
        assert decision.refusals == (before.refusals if decision.allow else in_a_row)
        assert decision.allow == (decision.reason is not Reason.DELAY)


@given(st.lists(reports, min_size=2, max_size=16), limits_of_ranks, st.integers(0, 6))
def test_refusals_leave_somebody_something_to_do(
    gathered: list[RankReport], limits: DelayerLimits, refusals: int
) -> None:
    """Only a pass with a prompt is refused, before its time, unforced, with a rank at work."""
    decision, _ = decide(gathered, DelayState(refusals, is_warm=True), limits)
    if not decision.allow:
        assert any(rank.prefillable for rank in gathered)
        assert not any(rank.force_allow for rank in gathered)
        assert max(rank.waited_us for rank in gathered) < limits.max_delay_s * 1e6
        assert limits.delay_idle or any(rank.running for rank in gathered)
        assert limits.delay_resumed or not any(rank.resumes for rank in gathered)
