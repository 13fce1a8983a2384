"""One sequence of device calls for one request trace, whatever the device's timing.

A trace is what was asked, in which order, and in which step each request was found waiting.
Where a request arrives while others are under way, the timing decides which step finds it:
that is another trace, and another sequence.
"""

import pytest

from aio_sched.testing import Scenario, explore
from tests.hazards import scenarios

ALL_THERE = pytest.mark.parametrize(
    "scenario", [scenarios.fixed_length_requests, scenarios.squares_all_there]
)


def sequences(scenario: Scenario, num_seeds: int) -> int:
    """Count the sequences of device calls over so many schedules."""
    explored = explore(scenario, seeds=range(num_seeds), check=False)
    explored.raise_if_any()
    assert explored.num_runs == num_seeds
    return len(explored.calls)


@ALL_THERE
def test_requests_that_are_all_there_give_one_sequence(scenario: Scenario) -> None:
    """Nobody branches on whether the device is done."""
    assert sequences(scenario, 60) == 1


@ALL_THERE
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_schedules_give_one_sequence(scenario: Scenario) -> None:
    """The same with more of them."""
    assert sequences(scenario, 1000) == 1


@pytest.mark.parametrize("scenario", [scenarios.late_requests, scenarios.squares])
def test_requests_that_arrive_on_the_way_are_another_trace_by_timing(scenario: Scenario) -> None:
    """So what is compared above can differ; the results are the same all the same."""
    assert sequences(scenario, 20) > 1
