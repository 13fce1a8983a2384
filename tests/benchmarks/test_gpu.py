"""The GPU suite: all of it that a CPU can run, and what it does when something is wrong."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import completion_clock, gpu
from benchmarks.completion_clock import CpuClock, CudaClock, CudaStamp
from benchmarks.driver_calls import gil_rows, launch_rows, query_rows, turns_of_others
from benchmarks.wake_latency import WAYS, WakeLoad, wake_rows
from tests.conftest import LOOPS

needs_no_gpu = pytest.mark.skipif(torch.accelerator.is_available(), reason="has an accelerator")


# The suite --------------------------------------------------------------------


@needs_no_gpu
def test_without_an_accelerator_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 2, and the message says what to do."""
    assert gpu.main([]) == 2
    assert "finds no accelerator here" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["abacus", "cuda:77" if torch.cuda.is_available() else "cuda"])
def test_device_that_is_not_there_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong name and an absent device are told apart from a failure."""
    assert gpu.main(["--device", name]) == 2
    assert repr(name) in capsys.readouterr().err


def test_every_section_runs_on_the_cpu_device(tmp_path: Path) -> None:
    """The smallest run of the suite fills every section of the file."""
    out = tmp_path / "new folder" / "cpu.json"
    assert gpu.main(["--device", "cpu", "--smoke", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert list(report["sections"]) == list(gpu.sections("cpu"))
    assert all(result["rows"] for result in report["sections"].values())
    assert {"date", "device_name", "torch", "python", "cores"} <= set(report["environment"])


def test_chosen_sections_are_the_only_ones(tmp_path: Path) -> None:
    """``--section`` leaves the others out."""
    out = tmp_path / "cpu.json"
    chosen = ["--device", "cpu", "--smoke", "--section", "query", "--out", str(out)]
    assert gpu.main(chosen) == 0
    assert list(json.loads(out.read_text())["sections"]) == ["query"]


def test_failing_section_is_reported_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 1, and the file has the error beside the other section's rows."""

    def broken() -> list[Any]:
        raise ZeroDivisionError("in the middle")

    def whole() -> list[Any]:
        return [{"figure": 1}]

    monkeypatch.setattr(gpu, "sections", lambda device, **_: {"broken": broken, "whole": whole})
    out = tmp_path / "cpu.json"
    assert gpu.main(["--device", "cpu", "--out", str(out)]) == 1
    found = json.loads(out.read_text())["sections"]
    assert found["broken"]["error"] == "ZeroDivisionError('in the middle')"
    assert "in broken" in found["broken"]["traceback"]
    assert found["whole"]["rows"] == [{"figure": 1}]
    assert "broken failed" in capsys.readouterr().err


def test_results_are_named_after_device_and_day() -> None:
    """Names are safe on every file system, and lie in one folder."""
    path = gpu._default_path("NVIDIA H200/1:0")
    assert path.parent.name == "results"
    assert path.name.startswith("NVIDIA-H200-1-0-20")
    assert path.suffix == ".json"


# Wake latency -----------------------------------------------------------------


def test_each_way_of_waiting_is_a_row_per_load_and_loop() -> None:
    """Rows are those of ``bench bridge`` with the device's name, and every way saw wake-ups."""
    rows = wake_rows("cpu", LOOPS, loads=[WakeLoad(4, 2, 0.5)], seconds=0.4)
    assert [(row["loop"], row["policy"]) for row in rows] == [(a, b) for a in LOOPS for b in WAYS]
    for row in rows:
        assert (row["waiters"], row["streams"], row["interval_ms"]) == (4, 2, 0.5)
        assert row["wake_us"]["p50"] is not None


class FakeGpu:
    """A device whose clock is off the host's and drifts against it, and the host's clock.

    Attributes:
        host_s: the host's time.
        late_s: how long after a completion the host sees it, for each time in turn.
    """

    def __init__(self) -> None:
        self.host_s = 1000.0
        self.late_s = [0.0]

    def perf_counter(self) -> float:
        """Return the host's time."""
        return self.host_s

    def device_ms(self) -> float:
        """Return the device's time: 100 parts in a million faster, and from another zero."""
        return (self.host_s * 1.0001 - 77.0) * 1e3


class FakeEvent:
    """A timing event of the fake device, complete at once, seen some time later."""

    def __init__(self, device: FakeGpu) -> None:
        self._device = device
        self.at_ms = 0.0

    def record(self, stream: object = None) -> None:
        """Note the device's time."""
        self.at_ms = self._device.device_ms()

    def query(self) -> bool:
        """Let the host see it."""
        self._device.host_s += self._device.late_s[0]
        self._device.late_s.append(self._device.late_s.pop(0))
        return True

    def elapsed_time(self, later: "FakeEvent") -> float:
        """Return milliseconds of the device's clock."""
        return later.at_ms - self.at_ms


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A fake GPU in place of torch's, and its clock in place of the host's."""
    device = FakeGpu()
    monkeypatch.setattr(completion_clock, "time", device)
    monkeypatch.setattr(completion_clock, "_timing_event", lambda: FakeEvent(device))
    monkeypatch.setattr(completion_clock, "_new_stream", lambda: None)
    return device


def test_device_times_become_host_times_in_spite_of_drift(fake_gpu: FakeGpu) -> None:
    """A completion is dated exactly, however the device's clock runs."""
    clock = CudaClock()
    clock.start()
    stamps: list[tuple[CudaStamp, float]] = []
    for _ in range(3):
        fake_gpu.host_s += 0.7
        stamp = clock.stamp()
        stamp.mark()
        stamps.append((stamp, fake_gpu.host_s))
    fake_gpu.host_s += 0.5
    clock.stop()
    for stamp, true_s in stamps:
        assert clock.reached_s(stamp) == pytest.approx(true_s, abs=1e-9)


def test_quickest_sight_of_an_anchor_counts(fake_gpu: FakeGpu) -> None:
    """A host that was kept from looking makes an anchor late, but not the clock."""
    fake_gpu.late_s = [0.004, 0.000_001, 0.002]
    clock = CudaClock()
    clock.start()
    fake_gpu.host_s += 1.0
    stamp, true_s = clock.stamp(), fake_gpu.host_s
    stamp.mark()
    fake_gpu.host_s += 1.0
    clock.stop()
    # To within the microsecond, and what the clocks drift apart while anchors are taken.
    assert clock.reached_s(stamp) == pytest.approx(true_s, abs=2e-5)


def test_work_of_the_cpu_device_notes_the_hosts_time() -> None:
    """There is one clock only, so a stamp needs no translation."""
    clock, before_s = CpuClock(), time.perf_counter()
    clock.start()
    stamp = clock.stamp()
    stamp.mark()
    clock.stop()
    assert before_s <= clock.reached_s(stamp) <= time.perf_counter()


# Calls ------------------------------------------------------------------------


def test_queries_are_timed_in_every_state() -> None:
    """Complete and pending, on an idle and on a busy device."""
    rows = query_rows("cpu", batches=1)
    states = [(row["event"], row["busy"]) for row in rows]
    assert states == [(e, b) for b in (False, True) for e in ("complete", "pending")]
    assert all(row["cost_us"]["min"] > 0 for row in rows)


def test_launches_are_timed_for_both_ways_to_issue() -> None:
    """Inline and on the issuer thread, with and without a kernel."""
    rows = launch_rows("cpu", batches=1)
    assert [row["issue"] for row in rows] == ["inline", "inline", "thread", "thread"]


def test_call_that_holds_the_gil_lets_nobody_in() -> None:
    """Pure Python never gives it up by itself; what sleeps does. The interval is restored."""
    former = sys.getswitchinterval()
    assert turns_of_others(lambda: sum(range(200_000)), 20) == 0
    assert turns_of_others(lambda: time.sleep(0.02), 3) > 0
    assert sys.getswitchinterval() == former


def test_gil_rows_cover_queries_launches_and_blocking() -> None:
    """On the CPU device queries are Python, and a blocking wait lets others run."""
    turns = {row["call"]: row["turns_of_others"] for row in gil_rows("cpu", repeats=20)}
    assert turns["Stream.advance"] == 0
    assert turns["block_until"] > 0
