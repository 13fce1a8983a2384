"""The example of ranks in step starts its ranks, and prints a table and a picture."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = str(ROOT / "examples" / "data_parallel.py")

BY_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param([sys.executable, EXAMPLE], id="alone"),
        pytest.param([*BY_TORCHRUN, EXAMPLE], id="torchrun", marks=pytest.mark.slow),
    ],
)
def test_data_parallel_compares_the_delayer_off_and_on(command: list[str], tmp_path: Path) -> None:
    """Two ranks, one table with a row for each setting, a picture of the last steps."""
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=110.0,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 ranks, 10 prompts each" in done.stdout
    assert "no divergence" in done.stdout
    rows = re.findall(
        r"│ (off|on) +│ (\d+) +│ \d+ ms +│ (\d+) +│ (\d+) +│ \d+\+\d+ +│", done.stdout
    )
    assert [row[0] for row in rows] == ["off", "on"]
    assert all(int(rate) > 0 and int(steps) > 0 for _, rate, _, steps in rows)
    off, on = (int(refusals) for _, _, refusals, _ in rows)
    assert off == 0 < on
    assert (tmp_path / "data-parallel.svg").read_text().startswith("<svg")
