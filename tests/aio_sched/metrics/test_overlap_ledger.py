"""Host time within device time, told in any order."""

import itertools
from math import inf
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from aio_sched.metrics.overlap_ledger import OverlapLedger

intervals = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=12).map(
    lambda steps: [
        (end - length, end)
        for end, (_, length) in zip(
            itertools.accumulate(gap + length for gap, length in steps), steps, strict=True
        )
    ]
)


@given(intervals, intervals, st.randoms(use_true_random=False))
def test_random_overlap_is_exact_whoever_is_told_first(
    host: list[tuple[int, int]], device: list[tuple[int, int]], random: Random
) -> None:
    """Host time within device time is the same for every interleaving of the reports."""
    ledger = OverlapLedger()
    calls = [ledger.host] * len(host) + [ledger.device] * len(device)
    random.shuffle(calls)
    to_tell = {"host": iter(host), "device": iter(device)}
    for call in calls:
        call(*next(to_tell[call.__name__]))
    ledger.settle(inf)
    expected = sum(
        max(0, min(h[1], d[1]) - max(h[0], d[0])) for h, d in itertools.product(host, device)
    )
    assert ledger.hidden_s == expected
    assert ledger.settled_s == sum(end - start for start, end in host)


def test_overlap_of_unfinished_host_time_is_not_yet_counted() -> None:
    """Hidden time never exceeds the host time that it is a part of."""
    ledger = OverlapLedger()
    ledger.host(0.0, 10.0)
    ledger.device(0.0, 4.0)
    assert (ledger.hidden_s, ledger.settled_s) == (0.0, 0.0)
    ledger.settle(10.0)
    assert (ledger.hidden_s, ledger.settled_s) == (4.0, 10.0)


def test_overlap_with_silent_device_stays_bounded() -> None:
    """Host time that no device time ever meets is settled as not hidden."""
    ledger = OverlapLedger(max_pending=4)
    for turn in range(100):
        ledger.host(turn, turn + 1.0)
    assert len(ledger._host) == 4
    assert (ledger.hidden_s, ledger.settled_s) == (0.0, 96.0)


def test_overlap_with_silent_host_stays_bounded() -> None:
    """Device time that no host time ever meets is forgotten."""
    ledger = OverlapLedger(max_pending=4)
    for turn in range(100):
        ledger.device(turn, turn + 1.0)
    assert len(ledger._device) == 4
