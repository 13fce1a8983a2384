"""The litmus script: every case decides on the devices that are here, and can decide otherwise."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from benchmarks import litmus
from benchmarks.litmus import CASES, ask
from benchmarks.litmus_lab import Case, Finding, Lab, Verdict
from streams.accelerator import accelerator_type
from streams.event import Event
from streams.simulated import Latch, SimProfile
from streams.simulated import queue as sim_queue
from streams.simulated.stream import SimStream
from tests.device_fixtures import Bench, SimBench

NEEDS_CUDA = {
    "torch_unrecorded",
    "torch_record_again",
    "handles",
    "capture",
    "pageable",
    "reuse",
}
NEEDS_REAL_TIME = {"query_cost", "query_gil"}
QUICK = [case for case in CASES if case.name not in NEEDS_REAL_TIME]
BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_case_holds_or_says_what_it_needs(device: str, case: Case) -> None:
    """The simulated device keeps its own promises, and so do threads; the rest stays open."""
    finding = ask(case, litmus.BENCHES[device]())
    open_here = NEEDS_CUDA | (NEEDS_REAL_TIME if device == "sim" else set())
    if case.name in open_here:
        assert finding.verdict is Verdict.NOT_HERE
        assert "needs" in finding.seen
    elif case.name == "query_cost":  # a figure of this machine
        assert finding.verdict in (Verdict.HOLDS, Verdict.FAILS)
        assert "Stream.advance" in finding.seen
    else:
        assert finding.verdict is Verdict.HOLDS, finding.seen


def test_names_are_distinct() -> None:
    """A report names cases by them."""
    assert len(BY_NAME) == len(CASES) >= 12


# Devices that are wrong -------------------------------------------------------


def refuted(bench: Bench) -> set[str]:
    """Return the cases that a device fails."""
    rows = litmus.run_cases(lambda: bench, QUICK, patience_s=0.05)
    return {row["name"] for row in rows if row["verdict"] == Verdict.FAILS.value}


def waits_for_nothing(patch: pytest.MonkeyPatch) -> None:
    """Device-side waits are accepted and forgotten."""
    patch.setattr(SimStream, "wait_event", lambda self, event: None)


def waits_for_the_latest(patch: pytest.MonkeyPatch) -> None:
    """A wait is for whatever its stream has by now."""
    genuine = SimStream.wait_event

    def wait_event(self: SimStream, event: Event) -> None:
        genuine(self, event.recorded_on(self.device).record())

    patch.setattr(SimStream, "wait_event", wait_event)


def reads_all_at_the_end(patch: pytest.MonkeyPatch) -> None:
    """A launch reads everything at one moment."""
    patch.setattr(sim_queue, "sample_of", lambda access: None)


def works_at_once(patch: pytest.MonkeyPatch) -> None:
    """A launch does its work when it is put, whatever its stream does."""
    genuine = SimStream.launch

    def launch(self: SimStream, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if isinstance(fn, Latch) or args:
            return genuine(self, fn, *args, **kwargs)
        done = fn()
        return genuine(self, lambda: done)

    patch.setattr(SimStream, "launch", launch)


def claims_to_be_done(patch: pytest.MonkeyPatch) -> None:
    """Every query says yes, from the first one on."""
    patch.setattr(SimStream, "advance", lambda self, number: number)


@pytest.mark.parametrize(
    ("mutate", "expected"),
    [
        (waits_for_nothing, {"wait_stream", "transitive", "argument", "fence", "unrecorded"}),
        (waits_for_the_latest, {"wait_binds"}),
        (reads_all_at_the_end, {"middle"}),
        (works_at_once, {"early_copy"}),
        (claims_to_be_done, {"query", "visible"}),
    ],
)
def test_wrong_device_is_found_out(
    mutate: Callable[[pytest.MonkeyPatch], None],
    expected: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each case that is about what is wrong says that its claim does not hold."""
    mutate(monkeypatch)
    assert expected <= refuted(litmus.BENCHES["sim"]())


@pytest.mark.parametrize(
    ("num_queues", "expected"), [(1, {"overlap", "own_queues"}), (2, {"own_queues"})]
)
def test_streams_that_share_queues_are_found_out(num_queues: int, expected: set[str]) -> None:
    """As on ROCm: what is held holds others back."""
    found = refuted(SimBench(SimProfile("shared", hardware_queues=num_queues, query_us=50.0)))
    assert expected <= found
    assert ("overlap" in found) is (num_queues == 1)


# The script -------------------------------------------------------------------


def few(patch: pytest.MonkeyPatch, *cases: Case) -> None:
    """Let the script ask these only."""
    patch.setattr(litmus, "CASES", cases)


def fails(lab: Lab) -> Finding:
    """Find a claim wrong."""
    return Finding(Verdict.FAILS, "the contrary")


def breaks(lab: Lab) -> NoReturn:
    """Break off."""
    raise ZeroDivisionError("in the middle")


@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_script_writes_what_it_saw(
    device: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The file says on what and when, and has a row for each case."""
    few(monkeypatch, *QUICK)
    out = tmp_path / "new folder" / "litmus.json"
    assert litmus.main(["--device", device, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert {"date", "device_name", "torch", "cuda", "driver"} <= set(report["environment"])
    assert [row["name"] for row in report["cases"]] == [case.name for case in QUICK]
    assert report["counts"] == {
        "holds": len(QUICK) - len(NEEDS_CUDA),
        "does not hold": 0,
        "cannot be asked here": len(NEEDS_CUDA),
        "broke off": 0,
    }
    assert "does not hold" in capsys.readouterr().out


@pytest.mark.parametrize(("wrong", "verdict"), [(fails, "does not hold"), (breaks, "broke off")])
def test_wrong_claim_shows_in_the_exit_status(
    wrong: Callable[[Lab], Finding],
    verdict: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And the other cases are asked nevertheless."""
    few(monkeypatch, Case("wrong", "a claim", wrong), BY_NAME["fifo"])
    assert litmus.main(["--device", "sim", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["cases"]
    assert [row["verdict"] for row in rows] == [verdict, "holds"]


@pytest.mark.skipif(accelerator_type() == "cuda", reason="has CUDA")
def test_without_cuda_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 2, and nothing was asked."""
    assert litmus.main(["--device", "cuda"]) == 2
    assert "nothing was asked" in capsys.readouterr().err
