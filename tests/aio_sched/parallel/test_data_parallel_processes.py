"""Ranks in processes of their own, over gloo: in step for thousands of steps, or told why not."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.aio_sched.parallel.serving_rank import Job

ROOT = Path(__file__).parents[3]


@contextmanager
def started(size: int, **job: Any) -> Iterator[list[subprocess.Popen[str]]]:
    """Start the ranks; those that still run at the end are killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = []
    try:
        for rank in range(size):
            given = {"rank": rank, "size": size, "address": address, **job}
            ranks.append(
                subprocess.Popen(
                    [sys.executable, "-m", Job.__module__, json.dumps(given)],
                    cwd=ROOT,
                    env=env,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        yield ranks
    finally:
        for process in ranks:
            process.kill()
            process.communicate()


def report_of(process: "subprocess.Popen[str]", timeout_s: float) -> dict[str, Any]:
    """Wait for a rank's end; return what it reports in its last line."""
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err
    report: dict[str, Any] = json.loads(out.splitlines()[-1])
    return report


def run(size: int, timeout_s: float = 60.0, **job: Any) -> list[dict[str, Any]]:
    """Run the ranks to their ends; return their reports."""
    with started(size, **job) as ranks:
        return [report_of(process, timeout_s) for process in ranks]


def assert_in_step(reports: list[dict[str, Any]], steps: int) -> None:
    """All made the same passes and batches, decided the same, and ended every request."""
    first = reports[0]
    for report in reports:
        assert report["error"] == ""
        assert report["epoch"] == 0
        assert report["digest"] != 0
        for key in ("passes", "batches", "refusals", "digest"):
            assert report[key] == first[key], (key, reports)
        assert report["batches"] >= steps
        assert report["ends"].keys() <= {"whole", "EngineBusyError"}
        assert report["ends"]["whole"] > 0


def test_two_processes_stay_in_step() -> None:
    """Two hundred steps with random arrivals, the same decisions on both."""
    assert_in_step(run(2, steps=200), 200)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_four_processes_stay_in_step_for_ten_thousand_steps(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the delayer, random arrivals on each, and the consensus check in every frame."""
    reports = run(4, steps=10_000, timeout_s=1100.0)
    assert_in_step(reports, 10_000)
    with capsys.disabled():
        sys.stdout.writelines(f"\n{json.dumps(report)}" for report in reports)


@pytest.mark.slow
def test_process_that_decides_otherwise_is_named_by_all() -> None:
    """Itself included; the requests fail with that."""
    reports = run(3, steps=10_000, odd="diverge", odd_step=50)
    for report in reports:
        assert report["error"].startswith("RankDivergedError: rank 1 decided differently")
        assert report["ends"].keys() <= {
            "whole",
            "EngineBusyError",
            "SchedulerClosedError",
            "failed by RankDivergedError",
        }


@pytest.mark.slow
@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGSTOP"])
def test_process_that_is_gone_ends_the_requests_of_the_others(signal_name: str) -> None:
    """Within the deadline, with a reason that names it."""
    timeout_s = 4.0
    with started(3, steps=10**6, odd=signal_name, odd_step=50, timeout_s=timeout_s) as ranks:
        first, third = (report_of(ranks[rank], 60.0) for rank in (0, 2))
        ranks[1].send_signal(signal.SIGKILL)
        out, _ = ranks[1].communicate(timeout=10.0)
        struck_at = json.loads(out.splitlines()[-1])["struck_at"]
    for report in (first, third):
        assert report["error"].startswith("RankLostError")
        assert re.search(r"ranks? ([\d, ]*, )?1\b", report["error"])
        assert report["ends"]["failed by RankLostError"] > 0
        # An exchange may have begun just after; and the machine may be busy.
        assert report["failed_at"] - struck_at < 2 * timeout_s


@pytest.mark.slow
def test_process_that_leaves_in_good_order_is_done_without() -> None:
    """The others rebuild the group, go on in step, and no request fails."""
    reports = run(3, steps=400, odd="leave", odd_step=50, farewell_s=0.2)
    assert [report["error"] for report in reports] == ["", "", ""]
    first, left, third = reports
    assert (left["epoch"], first["epoch"], third["epoch"]) == (0, 1, 1)
    assert left["batches"] < 400 <= first["batches"]
    for key in ("passes", "batches", "digest"):
        assert first[key] == third[key]
    for report in (first, third):
        assert report["ends"].keys() <= {"whole", "EngineBusyError"}
