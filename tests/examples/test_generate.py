"""The example of the engine runs as a process of its own, and prints what the engine writes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aio_sched.engine.engine import Engine
from aio_sched.engine.requests import SamplingParams
from aio_sched.engine.weights import load_model
from streams.device import open_device

ROOT = Path(__file__).parents[2]

PROMPTS = ("The with statement is used to", "A generator function is")


def output_of(folder: Path, *arguments: str) -> str:
    """Run the example on the CPU, somewhere else than in the checkout."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "generate.py"), "cpu", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def texts_of(output: str) -> dict[str, str]:
    """Put the lines of each text together again, without the last one's end."""
    texts: dict[str, str] = {}
    for line in output.splitlines(keepends=True)[:-1]:
        number, _, text = line.partition("> ")
        texts[number] = texts.get(number, "") + text
    return {number: text[:-1] for number, text in texts.items()}


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_generate_prints_what_each_prompt_gives_alone(tmp_path: Path) -> None:
    """Two prompts at the same time take the steps of one, and give the texts of one by one."""
    output = output_of(tmp_path)
    with open_device("cpu") as device:
        async with Engine(load_model(), device, overlap=False) as engine:
            alone = [
                prompt + await engine.complete(prompt, SamplingParams(max_tokens=160))
                for prompt in PROMPTS
            ]
    assert texts_of(output) == {"1": alone[0], "2": alone[1]}
    steps = re.search(r"^(\d+) steps on cpu\n\Z", output, re.MULTILINE)
    assert steps is not None
    assert int(steps[1]) <= 162


def test_generate_continues_the_prompts_it_is_given(tmp_path: Path) -> None:
    """One text for each argument."""
    texts = texts_of(output_of(tmp_path, "An object", "If", "Lambda"))
    assert sorted(texts) == ["1", "2", "3"]
    assert texts["1"].startswith("An object")
    assert texts["3"].startswith("Lambda")
