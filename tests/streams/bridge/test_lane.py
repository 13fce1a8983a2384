"""The waiters of one stream: order, heads, and what is left of those that gave up."""

import asyncio
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from streams.bridge.lane import Lane, Waiter
from streams.event import Event
from tests.streams.polled_device import PolledDevice


def _lane() -> Lane:
    return Lane(PolledDevice().polled(), None)


def _waiter(number: int) -> Waiter:
    # A lane orders waiters and never touches what they wait on.
    return Waiter(Event("e", number=number), cast("asyncio.Future[None]", None), None)


def test_waiters_are_taken_by_number_then_by_arrival() -> None:
    """Whoever waits for less goes first, and among equals whoever came first."""
    lane = _lane()
    waiters = [_waiter(number) for number in (3, 1, 2, 1)]
    assert [lane.add(waiter) for waiter in waiters] == [True, True, False, False]
    three, first_one, two, second_one = waiters
    assert lane.take(2) == [first_one, second_one, two]
    assert (lane.head, lane.num_waiters) == (3, 1)
    assert lane.take_all() == [three]
    assert (lane.head, lane.num_waiters) == (None, 0)


def test_discarded_head_is_never_awaited_again() -> None:
    """The next number that somebody waits for becomes the head."""
    lane = _lane()
    first, gone, last = _waiter(1), _waiter(2), _waiter(3)
    for waiter in (first, gone, last):
        lane.add(waiter)
    lane.discard(gone)
    lane.discard(first)
    assert lane.head == 3
    assert lane.take(9) == [last]


def test_discarding_a_taken_waiter_changes_nothing() -> None:
    """A waiter that was let go and then cancelled is unknown."""
    lane = _lane()
    taken, left = _waiter(1), _waiter(1)
    lane.add(taken)
    assert lane.take(1) == [taken]
    lane.add(left)
    lane.discard(taken)
    assert (lane.head, lane.num_waiters) == (1, 1)


def test_repr_says_who_is_next() -> None:
    """A lane in a debugger tells its stream, its load and its head."""
    lane = _lane()
    lane.add(_waiter(7))
    assert repr(lane).startswith("<Lane of <PolledStream 's'")
    assert repr(lane).endswith("1 waiting, next #7>")


def test_giving_up_again_and_again_keeps_one_number() -> None:
    """Waiting for what never comes, with a timeout in a loop, does not pile up."""
    lane = _lane()
    lane.add(_waiter(1))
    for _ in range(100):
        waiter = _waiter(5)
        lane.add(waiter)
        lane.discard(waiter)
    assert len(lane.numbers) == 2


_STEPS = st.lists(st.tuples(st.sampled_from(["add", "discard", "take"]), st.integers(1, 6)))


@given(_STEPS)
def test_lane_agrees_with_a_plain_list(steps: list[tuple[str, int]]) -> None:
    """Whatever is added, discarded and taken, head and order are those of a sorted list."""
    lane, model = _lane(), list[Waiter]()
    for step, number in steps:
        if step == "add":
            model.append(_waiter(number))
            lane.add(model[-1])
        elif step == "discard":
            for waiter in [w for w in model if w.event.number == number][:1]:
                model.remove(waiter)
                lane.discard(waiter)
        else:
            expected = sorted(
                (w for w in model if w.event.number <= number), key=lambda w: w.event.number
            )
            assert lane.take(number) == expected
            model = [w for w in model if w.event.number > number]
        assert lane.head == min((w.event.number for w in model), default=None)
        assert lane.num_waiters == len(model)
