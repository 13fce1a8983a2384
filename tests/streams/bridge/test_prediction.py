"""What is learned from looks, and how much may be spun: arithmetic on made-up times."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.bridge.prediction import Prediction, SpinBudget

_US = 1_000.0
_MS = 1_000_000.0


def _taught(interval_ns: float, num: int = 40) -> tuple[Prediction, float]:
    """Observe even completions, each between a look just before and one just after."""
    prediction = Prediction()
    done_ns = 0.0
    prediction.start(done_ns)
    for _ in range(num):
        done_ns += interval_ns
        prediction.start(prediction.observe(done_ns - 20 * _US, done_ns + 20 * _US, 1))
    return prediction, done_ns


def test_nothing_is_expected_before_three_completions() -> None:
    """Two intervals are no habit."""
    for num, is_known in ((0, False), (2, False), (3, True)):
        assert (_taught(5 * _MS, num)[0].expected_ns is not None) is is_known


def test_even_work_is_predicted_to_within_the_looks() -> None:
    """The next completion is expected where it will be, give or take what the looks showed."""
    prediction, done_ns = _taught(5 * _MS)
    assert prediction.expected_ns == pytest.approx(done_ns + 5 * _MS, abs=25 * _US)
    assert prediction.interval_ns == pytest.approx(5 * _MS, rel=0.005)


def test_repr_tells_what_was_learned() -> None:
    """In microseconds, as everything here."""
    assert repr(_taught(5 * _MS)[0]) == "<Prediction 5000 us +- 8 us, 40 samples>"


def test_deviation_follows_how_uneven_the_work_is() -> None:
    """Work that varies by a twentieth has a deviation of that order."""
    randomness = random.Random(1)
    prediction, done_ns = Prediction(), 0.0
    prediction.start(done_ns)
    for _ in range(300):
        done_ns += randomness.gauss(5 * _MS, 0.05 * 5 * _MS)
        prediction.start(prediction.observe(done_ns - 10 * _US, done_ns + 10 * _US, 1))
    assert 0.02 * 5 * _MS < prediction.deviation_ns < 0.1 * 5 * _MS


def test_burst_does_not_shrink_the_interval() -> None:
    """A loop that was busy finds several completions at once; none of them was faster for that."""
    prediction, done_ns = _taught(5 * _MS)
    prediction.start(prediction.observe(None, done_ns + 20 * _MS + 30 * _US, 4))
    assert prediction.interval_ns == pytest.approx(5 * _MS, rel=0.05)


def test_single_late_look_moves_nothing_far() -> None:
    """A look that was late, because the loop was busy, says little about the device."""
    prediction, done_ns = _taught(5 * _MS)
    prediction.start(prediction.observe(None, done_ns + 8 * _MS, 1))
    assert prediction.expected_ns == pytest.approx(done_ns + 10 * _MS, abs=0.1 * _MS)


def test_work_that_became_faster_is_caught_up_with() -> None:
    """Looks that are late again and again come earlier in growing steps."""
    prediction, done_ns = _taught(8 * _MS)
    lateness = []
    for _ in range(20):
        # One piece at a time: the device starts when the former was seen to be done.
        started_ns = done_ns
        done_ns = started_ns + 5 * _MS
        expected = prediction.expected_ns
        assert expected is not None
        look_ns = max(expected - prediction.deviation_ns, started_ns)
        lateness.append(look_ns - done_ns)
        missed = look_ns if look_ns < done_ns else None
        found_ns = done_ns + 30 * _US if missed is not None else look_ns
        prediction.start(prediction.observe(missed, found_ns, 1))
        done_ns = found_ns
    assert lateness[0] > 2.9 * _MS
    assert max(lateness[14:]) < 0.5 * _MS


def test_restart_from_nowhere_forgets_the_phase_and_keeps_the_interval() -> None:
    """After a pause nothing is expected, until it is known when to count from."""
    prediction, _ = _taught(5 * _MS)
    prediction.start(None)
    assert prediction.expected_ns is None
    prediction.start(100 * _MS)
    assert prediction.expected_ns == pytest.approx(105 * _MS, abs=25 * _US)


@given(
    st.lists(
        st.tuples(st.floats(0, 1e9), st.floats(0, 1e9), st.booleans(), st.integers(1, 50)),
        max_size=40,
    )
)
def test_no_sequence_of_looks_breaks_the_averages(
    looks: list[tuple[float, float, bool, int]],
) -> None:
    """Whatever times a clock gives, a completion is never placed after it was seen."""
    prediction, now_ns = Prediction(), 0.0
    prediction.start(now_ns)
    for to_miss, to_find, has_missed, num in looks:
        missed_ns = now_ns + to_miss
        now_ns = missed_ns + to_find
        done_ns = prediction.observe(missed_ns if has_missed else None, now_ns, num)
        assert done_ns <= now_ns
        assert not has_missed or done_ns >= missed_ns
        assert prediction.deviation_ns >= 0
        prediction.start(done_ns)


def test_budget_is_spent_by_spinning_and_refilled_by_time() -> None:
    """A quarter of wall time may be spun: a millisecond's worth after four milliseconds."""
    budget = SpinBudget(0.25, saved_ns=1_000_000)
    now_ns = 4_000_000
    assert budget.allows(now_ns)
    spun_ns = 0
    while budget.allows(now_ns):
        now_ns += 10_000
        spun_ns += 10_000
    # It is refilled while it is spent.
    assert spun_ns == pytest.approx(1_000_000 / 0.75, abs=20_000)
    assert budget.allows(now_ns + 1_000_000)


def test_time_between_spins_is_not_spent() -> None:
    """Only the time until ``stop`` counts, and the bucket holds no more than it holds."""
    budget = SpinBudget(0.25, saved_ns=100_000)
    assert budget.allows(10_000_000)
    budget.stop(10_050_000)
    budget.stop(99_000_000)
    assert budget.allows(100_000_000)
    assert not budget.allows(100_000_000 + 140_000)


def test_budget_without_share_allows_nothing() -> None:
    """A share of zero never spins."""
    budget = SpinBudget(0.0)
    assert not budget.allows(10**12)
