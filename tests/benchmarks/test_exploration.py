"""The rates of exploring: every row is there, and means what it says."""

import json

import pytest

from benchmarks import exploration


def test_smallest_run_has_a_row_for_each_variant(capsys: pytest.CaptureFixture[str]) -> None:
    """Three scenarios under three checkers, and four ways of watching a launch."""
    assert exploration.main(["--json", "--rounds", "1", "--runs", "1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rates = [row for row in rows if "scenario" in row]
    launches = [row for row in rows if "watched_by" in row]
    assert {(row["scenario"], row["checker"]) for row in rates} == {
        (scenario, watch) for scenario in exploration.SCENARIOS for watch in exploration.WATCHES
    }
    assert all(row["schedules_per_cpu_s"] > 0 and row["factor"] > 0 for row in rates)
    assert [row["watched_by"] for row in launches] == ["branch", "none", "idle", "default"]
    assert all(row["factor"] == 1.0 for row in rows if "none" in row.values())


def test_table_has_the_same_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """What people read."""
    assert exploration.main(["--rounds", "1", "--runs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("engine")] == ["engine"] * 3
    assert any(line.startswith("branch") for line in lines)


def test_no_rounds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing would be measured."""
    with pytest.raises(SystemExit):
        exploration.main(["--rounds", "0"])
    assert "must be at least 1" in capsys.readouterr().err
