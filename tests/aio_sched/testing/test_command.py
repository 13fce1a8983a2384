"""``aio-sched explore``: what it prints, and what it refuses."""

import shlex
from pathlib import Path

import pytest

from aio_sched.cli import main

SCENES = "tests.aio_sched.testing.scenes"


def test_finding_is_printed_with_a_replay_that_finds_it_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit status 1, the report, a picture, and a command that gives the same report."""
    picture = tmp_path / "race.svg"
    scenario = f"{SCENES}:table_without_barrier"
    assert main(["explore", scenario, "--seeds", "5", "--timeline", str(picture)]) == 1
    said = capsys.readouterr().out
    report = next(line for line in said.splitlines() if line.startswith("WAR on "))
    assert picture.read_text().startswith("<svg")
    replay = next(line for line in said.splitlines() if line.startswith("replay: "))
    assert main(shlex.split(replay.removeprefix("replay: aio-sched "))) == 1
    assert report in capsys.readouterr().out


def test_order_of_tasks_is_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    """Also a finding that only some order of tasks shows."""
    assert main(["explore", f"{SCENES}:hasty"]) == 1
    said = capsys.readouterr().out
    replay = next(line for line in said.splitlines() if line.startswith("replay: "))
    assert "--choices" in replay
    assert main(shlex.split(replay.removeprefix("replay: aio-sched "))) == 1


def test_clean_scenario_is_said_to_be_clean(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 0, with how many runs there were."""
    assert main(["explore", f"{SCENES}:doubled", "--seeds", "4", "--profile", "rocm"]) == 0
    said = capsys.readouterr().out
    assert "4 runs, nothing found" in said
    assert "virtual time of a run" in said


def test_seed_of_a_report_is_run_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """And not taken for a number of seeds."""
    assert main(["explore", f"{SCENES}:doubled", "--seed", "7", "--no-strict"]) == 0
    assert "1 runs, nothing found" in capsys.readouterr().out


def test_scenario_without_device_calls_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    """It may have forgotten the trial's device, and then nothing was checked."""
    assert main(["explore", f"{SCENES}:steadfast", "--seeds", "1"]) == 0
    assert "no run made a device call" in capsys.readouterr().out


def test_undisturbed_replay_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A replay of a run that goes right says so."""
    again = ["--replay", "3:random:pct", "--strict", "--cancel", "anyio:2"]
    assert main(["explore", f"{SCENES}:doubled", *again]) == 0
    assert "1 runs, nothing found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "is not module:function"),
        (["no.such.module:scene"], "No module named"),
        ([f"{SCENES}:missing"], "has no function 'missing'"),
        ([f"{SCENES}:doubled", "--strategy", "brave"], "strategy 'brave' is unknown"),
        ([f"{SCENES}:doubled", "--profile", "slow"], "profile 'slow'"),
        ([f"{SCENES}:doubled", "--seeds", "0"], "too few"),
        ([f"{SCENES}:doubled", "--cancel", "native:1"], "give it with --replay"),
        ([f"{SCENES}:doubled", "--fault", "launch_raises"], "give it with --replay"),
        (
            [f"{SCENES}:doubled", "--replay=0:friendly:fifo", "--cancel", "native:5000"],
            "ended before",
        ),
        (
            [f"{SCENES}:doubled", "--replay=0:friendly:fifo", "--fault", "slow_copy:prepare"],
            "struck nothing",
        ),
        ([f"{SCENES}:doubled", "--replay", "1"], "is not SEED:PROFILE:ORDER"),
        ([f"{SCENES}:doubled", "--replay", "1:random:fifo", "--cancel", "x"], "is not native"),
        ([f"{SCENES}:broken"], "ZeroDivisionError"),
    ],
)
def test_mistake_is_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2 and one line that says what is wrong."""
    assert main(["explore", *arguments]) == 2
    assert message in capsys.readouterr().err
