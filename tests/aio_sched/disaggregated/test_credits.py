"""Who holds a place on the decode side."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aio_sched.disaggregated.credits import Credits


@given(st.lists(st.tuples(st.sampled_from(["take", "give", "grant"]), st.integers(0, 6))))
def test_never_more_hold_a_place_than_were_granted_when_they_took_it(
    calls: list[tuple[str, int]],
) -> None:
    """Whatever is taken, given back and granted; and each place can be taken again."""
    places, holders = Credits(), set[int]()
    for verb, number in calls:
        if verb == "grant":
            places.grant(number)
        elif verb == "give":
            places.give_back(number)
            holders.discard(number)
        elif number not in holders and places.num_left:
            places.take(number)
            holders.add(number)
            assert len(holders) <= places.num_granted
        assert places.holders == holders
        assert places.num_left == max(0, places.num_granted - len(holders))


def test_taking_what_is_not_there_is_an_error() -> None:
    """Without a grant, without a place left, or twice by one."""
    places = Credits()
    with pytest.raises(RuntimeError, match="request 1 finds all 0 places held"):
        places.take(1)
    places.grant(2)
    places.take(1)
    with pytest.raises(ValueError, match="request 1 holds a place already"):
        places.take(1)
    with pytest.raises(ValueError, match="-1 places cannot be granted"):
        places.grant(-1)
