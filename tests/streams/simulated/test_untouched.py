"""Sampling writes only into memory that somebody else wrote: it may be read-only."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from streams.simulated.sampling import Sample, run_sampled

READS_A_FILE = """
import mmap, sys, warnings
import torch
from streams.device import open_device

warnings.simplefilter("ignore")  # torch's, of memory that cannot be written

with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    weight = torch.frombuffer(mapped, dtype=torch.float32)
    for profile in ("friendly", "random"):
        with open_device("sim", profile=profile) as device:
            cell = torch.zeros(1)
            read = lambda: cell.add_(weight.sum())
            for name in ("one", "two"):  # the second is overtaken in the cell, not in the weight
                total = device.stream(name).launch(read, reads=[weight, cell], writes=[cell])
            device.synchronize()
            print(total.result().item() in (6.0, 12.0))
"""


def test_file_mapped_for_reading_only_is_not_written(tmp_path: Path) -> None:
    """Weights may lie in memory that cannot be written: the interpreter would crash."""
    weights = tmp_path / "weights"
    weights.write_bytes(torch.arange(4.0).numpy().tobytes())
    command = [sys.executable, "-c", READS_A_FILE, str(weights)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["True", "True"]


class Untouched(Sample):
    """A sample of memory that must not be written."""

    def place(self) -> None:
        """Fail if that writes."""
        before = self._memory._version
        super().place()
        assert self._memory._version == before

    def settle(self) -> None:
        """Fail if that writes."""
        before = self._memory._version
        super().settle()
        assert self._memory._version == before


@pytest.mark.parametrize("rows", [None, (0, 2)])
def test_only_what_was_overtaken_is_written(rows: tuple[int, ...] | None) -> None:
    """Beside a sample that must be put in place, one that is in place is left alone."""
    cell, weight = torch.zeros(1), torch.full((3,), float("nan"))
    samples = [Sample(cell), Untouched(weight, rows)]
    for sample in samples:
        sample.take()
    cell.fill_(9)
    seen: list[float] = []
    run_sampled(samples, lambda: seen.append(cell.item()))
    assert seen == [0]
    assert cell.item() == 9
