"""torch's CUDA sanitizer beside the hazard checker, as far as there is no GPU in it."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch.cuda._gpu_trace as gpu_trace
from torch.cuda._sanitizer import EventHandler, UnsynchronizedAccessError

from benchmarks import sanitizer
from benchmarks.hazard_programs import PROGRAMS, Program
from benchmarks.sanitizer import compare
from benchmarks.sanitizer_trace import Declared, Polling, by_hand
from streams.accelerator import accelerator_type
from streams.device import open_device

BY_NAME = {program.name: program for program in PROGRAMS}
POLLED = ("await between", "query between")


def rows_of(program: Program, device: str = "sim") -> dict[bool, dict[str, Any]]:
    """Compare one program; rows by whether it has a race."""
    return {row["has_race"]: row for row in compare(device, [program])}


@pytest.mark.parametrize("device", ["sim", "cpu"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_verdicts_agree(program: Program, device: str) -> None:
    """Told of true queries, torch's analysis says what the checker says, or it is known why not."""
    for has_race, row in rows_of(program, device).items():
        assert row["as_expected"], row
        assert bool(row["checker"]) is has_race


@pytest.mark.parametrize("name", POLLED)
def test_polling_looks_like_a_race_until_torch_is_told(name: str) -> None:
    """The false report, and its cure; the true one stays."""
    rows = rows_of(BY_NAME[name])
    assert (rows[False]["torch"], rows[False]["torch_taught"]) == (1, 0)
    assert (rows[True]["torch"], rows[True]["torch_taught"]) == (1, 1)


@pytest.mark.parametrize(
    "name",
    ["write, then read", "read, then overwrite", "write twice", "wait through a third"],
)
def test_device_side_waits_need_no_telling(name: str) -> None:
    """What the device itself orders, torch's analysis knows as it is."""
    rows = rows_of(BY_NAME[name])
    assert (rows[False]["torch"], rows[True]["torch"]) == (0, 1)


def test_view_escapes_torch_only() -> None:
    """The checker compares bytes."""
    row = rows_of(BY_NAME["read through a view"])[True]
    assert (row["checker"], row["torch_taught"]) == (1, 0)
    assert "first address" in row["note"]


@pytest.mark.parametrize("name", POLLED)
def test_sanitizer_that_is_told_nothing_shows_in_the_exit_status(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison depends on the reports of true queries."""
    monkeypatch.setattr(sanitizer, "PROGRAMS", (BY_NAME[name],))
    assert sanitizer.main(["--device", "sim"]) == 0
    monkeypatch.setattr(Polling, "on_observed", lambda self, event: None)
    assert sanitizer.main(["--device", "sim"]) == 1


def test_program_without_its_fence_cannot_pass_for_cured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one pass whose waits neither of the two is told of."""
    raw = BY_NAME["write, then read"]
    monkeypatch.setattr(Declared, "on_wait", lambda self, stream, event: None)
    assert not rows_of(raw)[False]["as_expected"]


async def test_torch_names_both_accesses() -> None:
    """What is found is torch's own error, of two streams."""
    with open_device("sim") as device, by_hand(device, True) as found:
        await BY_NAME["read, then overwrite"].run(device, False)
    (error,) = found
    assert isinstance(error, UnsynchronizedAccessError)
    assert (error.current_access.operator, error.previous_access.operator) == ("fill_", "clone")
    assert error.current_access.stream != error.previous_access.stream


def test_trace_is_left_as_it_was() -> None:
    """Torch cannot unregister callbacks, so a comparison takes its own away."""
    before = list(gpu_trace.EventRecordCallbacks.callback_list)
    with open_device("sim") as device, by_hand(device, True):
        assert len(gpu_trace.EventRecordCallbacks.callback_list) == len(before) + 1
    assert gpu_trace.EventRecordCallbacks.callback_list == before


# torch's analysis itself ------------------------------------------------------


@pytest.mark.parametrize("is_told", [False, True])
def test_torch_has_no_notion_of_a_query(is_told: bool) -> None:
    """Fed by hand, without this library: a write, a true query, a read on another stream."""
    handler, operators = EventHandler(), itertools.count()

    def kernel(stream: int, reads: set[int], writes: set[int]) -> int:
        name = f"kernel {next(operators)}"
        aliases: dict[int, list[str]] = {pointer: [] for pointer in reads | writes}
        return len(handler._handle_kernel_launch(stream, reads, writes, set(), name, aliases))

    assert kernel(1, set(), {100}) == 0
    handler._handle_event_record(event=7, stream=1)
    if is_told:
        handler._handle_event_synchronization(event=7)
    assert kernel(2, {100}, set()) == (0 if is_told else 1)


# The script -------------------------------------------------------------------


@pytest.mark.skipif(accelerator_type() == "cuda", reason="has CUDA")
def test_without_cuda_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 2."""
    assert sanitizer.main([]) == 2
    assert "torch's sanitizer traces CUDA only" in capsys.readouterr().err


def test_script_writes_every_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says that nothing was traced, where nothing was."""
    out = tmp_path / "new folder" / "sanitizer.json"
    assert sanitizer.main(["--device", "sim", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["environment"]["device"] == "sim"
    racy = [row for row in report["programs"] if row["has_race"]]
    assert len(racy) == sum(program.has_race for program in PROGRAMS)
    assert all(row["reports"] for row in racy)
    assert "fed by hand, not traced" in capsys.readouterr().out
