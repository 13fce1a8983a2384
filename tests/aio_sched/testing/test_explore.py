"""Exploring: what is found, how it is told, and that a clean scenario stays clean."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aio_sched.testing.explore import ExplorationError, assert_same_results, explore
from aio_sched.testing.outcome import Outcome
from aio_sched.testing.schedule import STRATEGIES, CancelKind, Schedule
from aio_sched.testing.trial import Trial, run_once
from streams.simulated import Fault, FaultKind
from tests.aio_sched.testing.scenes import (
    Table,
    broken,
    clumsy,
    doubled,
    fails_behind_its_answer,
    hasty,
    leaky,
    steadfast,
    stuck,
    table,
    table_without_barrier,
    two_flaws,
)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fenced_pipeline_is_clean_under_every_strategy(strategy: str) -> None:
    """No report, the results of the sequential run, and nothing left behind."""
    explored = explore(table, seeds=range(3), strategy=strategy)
    assert explored.finding is None
    assert explored.num_runs >= 3
    assert len(explored.makespans_s) == explored.num_runs


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_missing_barrier_is_found_under_every_strategy(strategy: str) -> None:
    """The report names both stages; the run is made as simple as can be."""
    finding = explore(table_without_barrier, seeds=range(20), strategy=strategy).finding
    assert finding is not None
    assert [report.kind for report in finding.reports] == ["WAR"]
    assert "prepare" in finding.what[0]
    assert "forward" in finding.what[0]
    assert finding.schedule.profile == "friendly"
    assert finding.schedule.choices is None


def test_finding_is_drawn_under_a_heading(tmp_path: Path) -> None:
    """Who did what to what, over the steps around it; without steps there is nothing to draw."""
    picture = tmp_path / "race.svg"
    race = explore(table_without_barrier, seeds=range(20)).finding
    assert race is not None
    assert race.title == "WAR on tensor (2) int64: prepare#1 writes, forward#0 reads"
    race.picture(picture)
    assert race.title in picture.read_text()
    order = explore(hasty, seeds=range(20)).finding
    assert order is not None
    assert order.title.startswith("result[0] is ")
    with pytest.raises(ValueError, match="step"):
        order.picture(picture)


def test_wrong_result_is_found_without_the_checker() -> None:
    """A race that corrupts shows in the results too, if not in every run."""
    finding = explore(table_without_barrier, seeds=range(20), check=False).finding
    assert finding is not None
    assert "which is what comes without overlap" in finding.what[0]
    assert finding.reports == ()


def test_order_of_tasks_is_simplified_to_what_matters() -> None:
    """Of a shuffled run only the turn is left in which the first of four tasks lost its place."""
    finding = explore(hasty, seeds=range(20)).finding
    assert finding is not None
    odd = [choice for choice in finding.schedule.choices or () if choice is not None]
    assert len(odd) == 1
    assert run_once(hasty, finding.schedule).result == finding.outcome.result


def test_hang_is_found_at_once_and_named() -> None:
    """It takes no deadline: nothing can ever run."""
    finding = explore(stuck, seeds=range(1)).finding
    assert finding is not None
    assert "DeadlockError" in finding.what[0]
    assert "stuck" in finding.what[0]


def test_what_is_left_behind_is_found() -> None:
    """Tasks that still run, and checks of the scenario's own."""
    finding = explore(leaky, seeds=range(1)).finding
    assert finding is not None
    text = "\n".join(finding.what)
    assert "still runs" in text
    assert "returned False" in text


def test_scenario_that_fails_by_itself_is_no_finding_but_an_error() -> None:
    """Without a right result there is nothing to compare with."""
    with pytest.raises(ExplorationError, match="ZeroDivisionError"):
        explore(broken, seeds=range(1))


def test_assert_same_results_raises_the_finding() -> None:
    """For tests: the message has the report and the replay."""
    with pytest.raises(ExplorationError, match=r"(?s)WAR on .*replay: aio-sched explore"):
        assert_same_results(table_without_barrier, seeds=range(5))
    assert assert_same_results(doubled, seeds=range(5)).num_runs == 5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_seeds_are_refused(strategy: str) -> None:
    """An exploration of nothing would pass whatever is wrong."""
    with pytest.raises(ValueError, match="seeds is empty"):
        explore(table, seeds=[], strategy=strategy)


def test_delay_one_puts_off_every_task_step() -> None:
    """As many runs as the undisturbed run has task steps, which is more than it has turns."""
    undisturbed = run_once(hasty, Schedule(0, "friendly"))
    seen: list[Outcome] = []
    explore(doubled, seeds=[0], strategy="delay_one", profiles=("friendly",), on_run=seen.append)
    assert undisturbed.num_steps > len(undisturbed.choices)
    steps = run_once(doubled, Schedule(0, "friendly", is_strict=seen[0].schedule.is_strict))
    assert [run.schedule.delay for run in seen] == list(range(steps.num_steps))


@pytest.mark.parametrize("strict", [True, False])
def test_strictness_of_the_checker_can_be_chosen(strict: bool) -> None:
    """By default it changes from run to run."""
    seen: list[Outcome] = []
    explore(doubled, seeds=range(6), strict=strict, on_run=seen.append)
    assert {run.schedule.is_strict for run in seen} == {strict}
    explore(doubled, seeds=range(6), on_run=seen.append)
    assert {run.schedule.is_strict for run in seen[6:]} == {True, False}


def test_pct_spreads_its_moments_over_the_steps_that_a_run_has() -> None:
    """Not over a thousand, most of which never come."""
    seen: list[Outcome] = []
    explore(doubled, seeds=range(2), strategy="pct", on_run=seen.append)
    assert {run.schedule.num_steps for run in seen} == {run_once(doubled, Schedule()).num_steps}


def test_clean_up_that_fails_under_a_cancellation_is_found() -> None:
    """Whoever is cancelled raises CancelledError, or comes to the right result all the same."""
    finding = explore(clumsy, seeds=[0], strategy="single_cancel").finding
    assert finding is not None
    assert "the scenario raised TypeError: released twice" in finding.what
    assert explore(steadfast, seeds=[0], strategy="single_cancel").finding is None


def test_cancellation_that_does_not_matter_is_left_out() -> None:
    """A race that shows without it is told without it."""
    finding = explore(table_without_barrier, seeds=[0], strategy="single_cancel").finding
    assert finding is not None
    assert finding.schedule.cancel_at is None


def test_run_is_made_simpler_only_if_it_still_goes_wrong_in_the_same_way() -> None:
    """What is left behind is not forgotten for a wrong result that a simpler run has, too."""
    finding = explore(two_flaws, seeds=range(20)).finding
    assert finding is not None
    assert any("instead of" in line for line in finding.what)
    assert any("still runs" in line for line in finding.what)


def test_step_that_fails_only_where_steps_overlap_is_found() -> None:
    """Also if nobody who asked for something is told."""
    finding = explore(fails_behind_its_answer, seeds=range(3)).finding
    assert finding is not None
    assert "which no step did without overlap" in finding.what[0]


def test_livelock_comes_after_as_many_turns_as_one_may_take() -> None:
    """The limit that the error speaks of can be given."""
    finding = explore(doubled, seeds=[0], max_steps=100_000).finding
    assert finding is None
    with pytest.raises(ExplorationError, match="LivelockError"):
        explore(doubled, seeds=[0], max_steps=5)


@pytest.mark.parametrize("scenario", [Table, 7, lambda trial: [1]])
def test_what_is_no_scenario_is_refused(scenario: Any) -> None:
    """The error says what one looks like."""
    with pytest.raises((TypeError, ExplorationError), match="write 'async def scenario"):
        explore(scenario, seeds=[0])


def test_unknown_strategy_is_refused() -> None:
    """The known ones are named."""
    with pytest.raises(ValueError, match="'brave' is unknown; use one of 'random', 'pct'"):
        explore(table, strategy="brave")


def test_single_cancel_visits_every_await_point_in_both_ways() -> None:
    """As many runs as the undisturbed scenario has await points, twice."""
    seen: list[Outcome] = []
    explored = explore(doubled, seeds=[0], strategy="single_cancel", on_run=seen.append)
    points = [(run.schedule.cancel_kind, run.schedule.cancel_at) for run in seen]
    num_points = explored.num_runs // 2
    kinds = (CancelKind.NATIVE, CancelKind.ANYIO)
    assert points == [(kind, point) for kind in kinds for point in range(num_points)]
    assert num_points > 3


# One run ----------------------------------------------------------------------


def test_same_schedule_gives_the_same_run() -> None:
    """Results, calls, time and choices."""
    schedule = Schedule(7, "random", "random")
    one, other = run_once(table, schedule), run_once(table, schedule)
    assert (one.calls, one.makespan_s, one.choices) == (
        other.calls,
        other.makespan_s,
        other.choices,
    )
    assert one.makespan_s > 0


def test_recorded_choices_replay_the_run() -> None:
    """With the choices of a shuffled run, a run in fifo order is that run."""
    shuffled = run_once(hasty, Schedule(3, "random", "random"))
    again = run_once(hasty, replace(shuffled.schedule, order_name="fifo", choices=shuffled.choices))
    assert again.result == shuffled.result


def test_fault_ends_the_requests_that_it_strikes() -> None:
    """The scenario's own error has the cause, and the fault has fired."""
    fault = Fault(FaultKind.LAUNCH_RAISES, stage="forward")
    outcome = run_once(doubled, Schedule(faults=(fault,)))
    assert "injected fault" in str(outcome.error)
    assert outcome.unfired == ()


@pytest.mark.parametrize("kind", [CancelKind.NATIVE, CancelKind.ANYIO])
def test_cancelled_run_ends_and_leaves_nothing(kind: CancelKind) -> None:
    """A scenario that is cancelled returns nothing and leaves nothing."""
    outcome = run_once(doubled, Schedule(cancel_at=1, cancel_kind=kind))
    assert outcome.result is None
    assert outcome.error is None
    assert outcome.left_behind == []


@pytest.mark.parametrize("is_ordered", [True, False])
def test_second_device_is_checked_with_the_first(is_ordered: bool) -> None:
    """Ranks have a device each; what crosses from one to the other must be awaited."""

    async def scenario(trial: Trial) -> None:
        shared = torch.zeros(2)
        first, second = (
            device.stream("forward") for device in (trial.device, trial.another_device())
        )
        written = first.launch(shared.fill_, 1.0, writes=[shared])
        if is_ordered:
            await written.wait()
        await second.launch(shared.clone, reads=[shared])
        await first.drained()

    reports = [run_once(scenario, Schedule(seed)).reports for seed in range(6)]
    found = [[report.kind for report in of_one] for of_one in reports]
    assert found == [[] if is_ordered else ["RAW"]] * 6


async def on_each_device(trial: Trial) -> list[bool]:
    """Run a pipeline on the first device, and one on a second."""
    first, second = trial.device, trial.another_device()
    async with trial.scheduler(Table(first)) as one, trial.scheduler(Table(second), second) as two:
        return [one.device is first, two.device is second, trial.devices == [first, second]]


def test_scheduler_runs_on_the_device_that_is_named() -> None:
    """By default that is the first one."""
    outcome = run_once(on_each_device, Schedule(0))
    assert (outcome.error, outcome.result) == (None, [True] * 3)
