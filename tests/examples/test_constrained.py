"""The example of constraints runs as a process of its own, and prints texts that meet them."""

import json
import os
import re
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
FREE_PROMPT = "A generator function is"


def output_of(folder: Path) -> str:
    """Run the example on the CPU, somewhere else than in the checkout."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "constrained.py"), "cpu", "out.svg"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=100.0,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def rows_of(output: str) -> list[list[str]]:
    """Return the cells of the table's rows."""
    rows = ([cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines())
    return [cells for cells in rows if len(cells) > 1]


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_constrained_prints_json_and_dates_beside_free_text(tmp_path: Path) -> None:
    """Whole texts meet their constraints; the free one is what the engine writes without them."""
    output = output_of(tmp_path)
    rows = rows_of(output)
    json_kind = "JsonSchema"
    kinds = [json_kind, "free", json_kind, "Regex", "free", json_kind]
    assert [row[0] for row in rows] == kinds
    for kind, text, _, end in rows:
        if kind == json_kind and end == "whole":
            function = json.loads(text)
            assert sorted(function) == ["arguments", "kind", "line", "name"]
            assert function["kind"] in ("function", "method", "coroutine")
            assert 1 <= function["line"] <= 9999
            assert all(re.fullmatch("[a-z_]{3,9}", name) for name in function["arguments"])
        if kind == "Regex":
            assert re.fullmatch(r"(19|20)\d\d-\d\d-\d\d", text)
    assert [row[3] for row in rows] == ["whole", "cut off", "whole", "whole", "cut off", "cut off"]
    assert rows[5][2] == "20"
    with open_device("cpu") as device:
        async with Engine(load_model(), device, overlap=False) as engine:
            alone = await engine.complete(FREE_PROMPT, SamplingParams(64))
    assert rows[1][1] == alone.replace("\n", " ").strip()
    assert re.search(r"^\d+ steps on cpu; timeline in out.svg\n\Z", output, re.MULTILINE)
    picture = (tmp_path / "out.svg").read_text()
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    assert "relay.d2h" in picture
