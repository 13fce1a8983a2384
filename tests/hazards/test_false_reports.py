"""What the library ships has no hazard, and is not said to have one, whatever the schedule."""

import pytest

from aio_sched.testing import Outcome, Scenario, explore
from tests.hazards.scenarios import SHIPPED

each = pytest.mark.parametrize("scenario", SHIPPED)


def assert_no_finding(scenario: Scenario, seeds: range) -> None:
    """Explore it with both checkers: no report, no wrong result, nothing left behind."""
    kinds: set[bool] = set()
    profiles: set[object] = set()

    def note(outcome: Outcome) -> None:
        kinds.add(outcome.schedule.is_strict)
        profiles.add(outcome.schedule.profile)

    explored = explore(scenario, seeds=seeds, on_run=note)
    explored.raise_if_any()
    assert explored.num_runs == len(seeds)
    assert (len(kinds), len(profiles)) == (2, 6)


@each
def test_shipped_pipeline_is_clean(scenario: Scenario) -> None:
    """Over a few schedules each time the tests run."""
    assert_no_finding(scenario, range(20))


@each
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_shipped_pipeline_is_clean_over_thousands_of_schedules(scenario: Scenario) -> None:
    """More than ten thousand in all; ``make explore``."""
    assert_no_finding(scenario, range(800))


@each
@pytest.mark.slow
def test_shipped_pipeline_that_is_cancelled_at_any_await_leaves_nothing_behind(
    scenario: Scenario,
) -> None:
    """Natively and by anyio: no task, no slot, and no error that nobody looks at."""
    explore(scenario, seeds=range(1), strategy="single_cancel").raise_if_any()
