"""Policies by name and by object, and when their paces look: arithmetic on made-up times."""

import random
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import pytest

from streams.bridge.governed_pace import GovernedPace
from streams.bridge.prediction import SpinBudget
from streams.bridge.wait_policy import Pace, WaitPolicy, wait_policy
from tests.streams.polled_device import PolledDevice

_US = 1_000
_MS = 1_000_000


def _pace(policy: str) -> Pace:
    return wait_policy(policy).pace(PolledDevice().polled())


def _looks(pace: Pace, begin_ns: int, done_ns: int) -> list[int]:
    """Look whenever the pace says so until ``done_ns`` has passed, and tell it."""
    looks = [begin_ns]
    while len(looks) == 1 or looks[-1] < done_ns:
        due_ns = pace.next_look_ns(looks[-1])
        assert due_ns is not None
        looks.append(max(due_ns, looks[-1] + 2 * _US))  # a turn of the loop takes a moment
    pace.found(looks[-1], 1)
    return looks[1:]


def _run(pace: Pace, intervals: Callable[[int], float], num: int = 60) -> list[tuple[int, int]]:
    """Complete ``num`` events back to back; return looks and lateness of the last half."""
    result = []
    now_ns, done_ns = 0, 0.0
    pace.begin(now_ns)
    for index in range(num):
        done_ns += intervals(index)
        looks = _looks(pace, now_ns, int(done_ns))
        now_ns = looks[-1]
        result.append((len(looks), now_ns - int(done_ns)))
    return result[num // 2 :]


def _mean(values: list[int]) -> float:
    return sum(values) / len(values)


def test_even_work_takes_few_looks() -> None:
    """A stream that completes every five milliseconds is looked at three times or so for each."""
    looks, late_ns = zip(*_run(_pace("auto"), lambda _: 5 * _MS), strict=True)
    assert _mean(list(looks)) <= 4
    assert max(late_ns) <= 60 * _US


def test_uneven_work_takes_more_looks_but_not_many() -> None:
    """Intervals that scatter by a twentieth cost a few looks each."""
    uneven = random.Random(3)
    taken = _run(_pace("auto"), lambda _: uneven.gauss(5 * _MS, 0.05 * 5 * _MS), num=200)
    assert _mean([num for num, _ in taken]) <= 6
    assert sorted(late for _, late in taken)[len(taken) // 2] <= 120 * _US


def test_unknown_stream_is_looked_at_often_and_then_less() -> None:
    """Before anything is known the looks start close together and back off to milliseconds."""
    looks = _looks(_pace("auto"), 0, 100 * _MS)
    gaps = [after - before for before, after in pairwise(looks)]
    assert gaps[0] <= 100 * _US
    assert max(gaps) <= 2 * _MS
    assert gaps == sorted(gaps)
    assert len(looks) < 150


def test_event_that_never_comes_is_looked_at_every_two_milliseconds_at_most() -> None:
    """Behind the window the looks back off, however regular the stream was."""
    pace = _pace("low_latency")
    _run(pace, lambda _: 5 * _MS)
    looks = _looks(pace, 300 * _MS, 1300 * _MS)
    assert max(after - before for before, after in pairwise(looks)) == 2 * _MS
    assert len(looks) < 1.4 * 500


def test_stream_that_runs_dry_between_is_predicted_from_when_it_is_awaited() -> None:
    """Requests at random times whose work takes equally long are met, too."""
    pace, uneven = _pace("auto"), random.Random(5)
    now_ns, taken = 0, []
    for _ in range(60):
        now_ns += int(uneven.uniform(1, 50) * _MS)
        pace.begin(now_ns)
        done_ns = now_ns + 5 * _MS
        looks = _looks(pace, now_ns, done_ns)
        now_ns = looks[-1]
        taken.append((len(looks), now_ns - done_ns))
    assert _mean([num for num, _ in taken[30:]]) <= 4
    assert max(late for _, late in taken[30:]) <= 60 * _US


def test_stream_awaited_piece_by_piece_is_predicted_from_its_completions() -> None:
    """A consumer that dawdles before each await does not blur the rhythm of the device."""
    pace, uneven = _pace("auto"), random.Random(5)
    taken, now_ns = [], 0
    for index in range(1, 80):
        pace.begin(now_ns)
        looks = _looks(pace, now_ns, index * 5 * _MS)
        taken.append((len(looks), looks[-1] - index * 5 * _MS))
        now_ns = looks[-1] + int(uneven.uniform(0, 3) * _MS)
    assert _mean([num for num, _ in taken[40:]]) <= 4
    assert max(late for _, late in taken[40:]) <= 60 * _US


def test_stalled_start_is_forgotten_soon() -> None:
    """A first interval of a quarter of a second, before a steady millisecond, holds up nothing."""
    pace = _pace("auto")
    first_ns = 250 * _MS
    pace.begin(0)
    _looks(pace, 0, first_ns)
    now_ns, done_ns, late_ns = first_ns, first_ns, []
    while done_ns < first_ns + 300 * _MS:
        done_ns += _MS
        looks = _looks(pace, now_ns, done_ns)
        now_ns = looks[-1]
        late_ns.append(now_ns - done_ns)
    assert max(late_ns) <= 3 * _MS
    assert max(late_ns[40:]) <= 100 * _US


def test_single_stall_does_not_make_the_next_look_late() -> None:
    """When the device had to wait for the host once, the rhythm afterwards is the old one."""
    stalled = _run(_pace("auto"), lambda index: (100 if index == 50 else 5) * _MS)
    after = [late_ns for _, late_ns in stalled][21:]
    assert max(after) <= 0.5 * _MS


def test_no_prediction_is_trusted_for_longer_than_fifty_milliseconds() -> None:
    """A look every now and then costs nothing and bounds what a wrong prediction can do."""
    pace = GovernedPace(None, 1.0, widest_ns=10**12)
    _run(pace, lambda _: 400 * _MS, num=20)
    now_ns = 20 * 400 * _MS
    due_ns = pace.next_look_ns(now_ns)
    assert due_ns is not None
    assert due_ns <= now_ns + 50 * _MS


def test_low_latency_spins_near_the_completion_only() -> None:
    """Spinning finds the completion at once, and stays within a quarter of the time."""
    uneven = random.Random(3)
    taken = _run(_pace("low_latency"), lambda _: uneven.gauss(5 * _MS, 0.02 * 5 * _MS), num=200)
    assert sorted(late for _, late in taken)[len(taken) // 2] <= 5 * _US
    assert _mean([num for num, _ in taken]) * 2 * _US <= 0.25 * 5 * _MS


def test_low_latency_does_not_spin_beyond_its_budget() -> None:
    """Work that can hardly be predicted would be spun for all the time; the budget says no."""
    uneven, pace = random.Random(3), GovernedPace(SpinBudget(0.1), 1.0, widest_ns=10**12)
    taken = _run(pace, lambda _: uneven.uniform(1, 9) * _MS, num=200)
    assert _mean([num for num, _ in taken]) * 2 * _US <= 0.2 * 5 * _MS


@pytest.mark.parametrize("policy", ["auto", "low_latency"])
def test_uneven_stream_is_left_to_a_thread_until_it_is_even(policy: str) -> None:
    """Where a prediction fails a thread does better; it comes back when that has changed."""
    uneven, pace = random.Random(3), _pace(policy)
    now_ns, blocked = 0, []
    pace.begin(now_ns)
    for index in range(160):
        interval_ns = 5 * _MS * (uneven.uniform(0.2, 1.8) if 40 <= index < 100 else 1)
        blocked.append(pace.next_look_ns(now_ns) is None)
        now_ns += int(interval_ns)
        if not blocked[-1]:
            pace.next_look_ns(now_ns - 20 * _US)  # a look just before it is done
        pace.found(now_ns, 1)
    assert not any(blocked[:40])
    assert all(blocked[60:100])
    assert not any(blocked[140:])


def test_uneven_start_is_no_reason_for_a_thread() -> None:
    """The first intervals are uneven as a rule: caches warm up, graphs are captured."""
    uneven, pace = random.Random(3), _pace("auto")
    now_ns = 0
    pace.begin(now_ns)
    for _ in range(10):
        assert pace.next_look_ns(now_ns) is not None
        now_ns += int(5 * _MS * uneven.uniform(0.2, 1.8))
        pace.found(now_ns, 1)


def test_streams_of_one_policy_share_the_budget() -> None:
    """The share is of one core, however many streams are waited for."""
    policy = wait_policy("low_latency")
    paces = [policy.pace(PolledDevice().polled()) for _ in range(2)]
    assert all(isinstance(pace, GovernedPace) for pace in paces)
    assert len({id(cast(GovernedPace, pace)._budget) for pace in paces}) == 1


def test_spin_always_looks_at_once_and_thread_never() -> None:
    """Their paces know neither past nor future."""
    spin, thread = _pace("spin"), _pace("thread")
    for now_ns in (1, 5, 9):
        for pace in (spin, thread):
            pace.begin(now_ns)
            pace.found(now_ns, 1)
        assert spin.next_look_ns(now_ns) == now_ns
        assert thread.next_look_ns(now_ns) is None


@pytest.mark.parametrize("name", ["auto", "low_latency", "thread", "spin"])
def test_policy_is_made_from_its_name(name: str) -> None:
    """Each name gives a new policy of that name."""
    policy = wait_policy(name)
    assert isinstance(policy, WaitPolicy)
    assert policy.name == name
    assert policy is not wait_policy(name)


def test_unknown_name_is_refused_with_the_list() -> None:
    """The error has the value and what there is."""
    with pytest.raises(ValueError, match=r"'lazy' is unknown; use one of 'auto', 'low_latency', "):
        wait_policy("lazy")


def test_environment_chooses_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable counts where nothing was asked for; an empty one is none."""
    monkeypatch.setenv("AIO_SCHED_WAIT_POLICY", "spin")
    assert wait_policy().name == "spin"
    assert wait_policy("thread").name == "thread"
    monkeypatch.setenv("AIO_SCHED_WAIT_POLICY", "")
    assert wait_policy().name == "auto"


def test_unknown_name_in_the_environment_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever sees the error may not know that the variable is set."""
    monkeypatch.setenv("AIO_SCHED_WAIT_POLICY", "lazy")
    with pytest.raises(ValueError, match=r"'lazy' \(from the environment variable AIO_"):
        wait_policy()


@pytest.mark.parametrize("wrong", [7, object(), GovernedPace])
def test_object_that_makes_no_paces_is_refused(wrong: object) -> None:
    """A class or a number is told what is wanted."""
    with pytest.raises(TypeError, match="give a name or an object with a name and pace"):
        wait_policy(cast(WaitPolicy, wrong))
