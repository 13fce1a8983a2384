"""The example of the experts runs as a process of its own, and prints what the engine returns."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from aio_sched.engine.engine import Engine
from aio_sched.engine.experts import load_mixture
from aio_sched.engine.requests import SamplingParams
from streams.device import open_device

ROOT = Path(__file__).parents[2]


def cells_of(line: str) -> list[str]:
    """Return the cells of a row of a table."""
    return [cell.strip() for cell in line.split("│")[1:-1]]


def output_of(folder: Path) -> str:
    """Run the example on the CPU, somewhere else than in the checkout."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "mixture_of_experts.py"), "cpu", "out.svg"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100.0,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_mixture_of_experts_prints_what_one_text_alone_gives(tmp_path: Path) -> None:
    """Five texts with a row for each token that was read, the use of experts, and a picture."""
    output = output_of(tmp_path)
    rows = [cells for line in output.splitlines() if len(cells := cells_of(line)) > 1]
    texts, layers = rows[:5], rows[5:]
    with open_device("cpu") as device:
        async with Engine(load_mixture(), device, chunk=32, overlap=False) as engine:
            alone = await engine.complete(texts[0][0], SamplingParams(max_tokens=64))
    assert alone.replace("\n", " ").strip().startswith(texts[0][1])
    for prompt, _, num_prompt, num_tokens, num_rows in texts:
        assert int(num_prompt) == len(prompt)
        assert int(num_rows) == int(num_prompt) + int(num_tokens) - 1
    assert [layer[0] for layer in layers] == [f"layer {number}" for number in range(4)]
    num_read = sum(int(text[4]) for text in texts)
    assert f"share of {num_read} tokens" in output
    for layer in layers:
        shares = [int(re.findall(r"(\d+)%", cell)[0]) for cell in layer[1:]]
        assert len(shares) == 8
        assert abs(sum(shares) - 300) <= 8, "three experts per token, rounded"
    picture = (tmp_path / "out.svg").read_text()
    ElementTree.fromstring(picture)
    assert "_clone" in picture
    assert re.search(r"^\d+ steps on cpu; timeline in out\.svg$", output, re.MULTILINE)
