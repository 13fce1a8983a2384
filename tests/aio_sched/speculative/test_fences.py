"""Fences of the buffers that speculative decoding depends on: its programs need them too."""

from dataclasses import replace

import pytest

from aio_sched.testing import run_once
from aio_sched.testing.schedule import draw_schedule
from tests.hazards.fences.registry import FENCES
from tests.hazards.fences.speculative import engine_with_host_lengths

SCHEDULES = [draw_schedule(seed, "random") for seed in range(20)]


def test_pull_of_lengths_that_does_not_wait_for_their_publish_is_reported() -> None:
    """The host would plan by lengths that the accept has not written yet."""
    [fence] = [f for f in FENCES if f.words.startswith("RAW: a gather reads rows that stash or")]
    fence = replace(fence, scenario=engine_with_host_lengths, finds=("RAW", "relay.lengths"))
    for schedule in SCHEDULES:
        assert run_once(fence.scenario, schedule).reports == []
    with fence.removed():
        for schedule in SCHEDULES:
            reports = run_once(fence.scenario, schedule).reports
            assert fence.finds in {(report.kind, report.memory) for report in reports}


@pytest.mark.parametrize("seed", range(3))
def test_scenario_writes_a_whole_text(seed: int) -> None:
    """So that the reports above are about steps that verify."""
    assert len(run_once(engine_with_host_lengths, SCHEDULES[seed]).result) == 6
