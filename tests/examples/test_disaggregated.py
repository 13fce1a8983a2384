"""The example of two processes runs, and prints what one engine writes."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from aio_sched.engine.engine import Engine
from aio_sched.engine.requests import SamplingParams
from aio_sched.engine.weights import load_model
from streams.device import open_device

ROOT = Path(__file__).parents[2]
PROMPTS = ("A generator function is", "Names are resolved in the following order. " * 7)


def output_of(folder: Path) -> str:
    """Run the example somewhere else than in the checkout."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "disaggregated.py")],
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
async def test_disaggregated_prints_what_one_engine_writes(tmp_path: Path) -> None:
    """Six texts, a long and a short one compared, and a picture of each process."""
    output = output_of(tmp_path)
    rows = [line.split("│") for line in output.splitlines() if line.startswith("│")]
    texts = {int(row[1]): row[6][1:] for row in rows}
    assert len(texts) == 6
    with open_device("cpu") as device:
        async with Engine(load_model(), device) as engine:
            for prompt in PROMPTS:
                text = await engine.complete(prompt, SamplingParams(max_tokens=30))
                shown = f"{prompt[-20:]}|{text}".replace("\n", " ")
                assert texts[len(prompt)].strip() == shown.strip()
    assert " steps here, all of them prefills" in output
    for side in ("prefill", "decode"):
        ElementTree.parse(tmp_path / f"disaggregated-{side}.svg")
