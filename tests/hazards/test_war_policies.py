"""Each policy of the WAR barrier on each profile: ordered, or reported, whatever the timing."""

import json

import pytest

from benchmarks.barriers import POLICIES, Cost, main, measure
from streams.simulated import PROFILES

NUM_SEEDS = 20


@pytest.fixture(scope="module", params=PROFILES)
def costs(request: pytest.FixtureRequest) -> dict[str, Cost]:
    """Run all policies on one profile."""
    costs = measure(request.param, range(NUM_SEEDS), num_steps=6)
    return {cost.policy: cost for cost in costs}


def test_policies_that_order_are_clean_and_read_what_is_theirs(costs: dict[str, Cost]) -> None:
    """In every seed, with the default checker and with the strict one."""
    for policy in ("read_done", "whole_forward", "rotate"):
        cost = costs[policy]
        assert (cost.runs, cost.reported, cost.wrong) == (NUM_SEEDS, 0, 0)


def test_off_is_reported_in_every_run(costs: dict[str, Cost]) -> None:
    """Also where the device's queues happen to order the two, and nothing is read wrongly."""
    assert costs["off"].reported == NUM_SEEDS


def test_policy_that_waits_for_less_never_takes_longer(costs: dict[str, Cost]) -> None:
    """A wait for the reads is over before one for all of forward; copies need no wait."""
    spans = [costs[p].makespan_ms for p in ("off", "rotate", "read_done", "whole_forward")]
    assert spans == sorted(spans)


def test_whole_forward_costs_what_prepare_then_no_longer_overlaps() -> None:
    """With all durations fixed it is prepare's own time, each step; read_done hides it."""
    costs = {cost.policy: cost for cost in measure("friendly", range(1))}
    assert costs["read_done"].makespan_ms == costs["off"].makespan_ms
    num_gaps, prepare_ms = 11, 2 * 0.02  # steps behind the first; an upload and a copy
    longer_ms = costs["whole_forward"].makespan_ms - costs["off"].makespan_ms
    assert longer_ms == pytest.approx(num_gaps * prepare_ms)


def test_script_prints_a_row_per_cell(capsys: pytest.CaptureFixture[str]) -> None:
    """``--json`` gives them to machines."""
    assert main(["--json", "--seeds", "1", "--steps", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    cells = [(row["profile"], row["policy"]) for row in rows]
    assert cells == [(profile, policy) for profile in PROFILES for policy in POLICIES]
    assert set(rows[0]) == set(Cost.__dataclass_fields__)
