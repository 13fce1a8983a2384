"""The same seed and the same calls give the same run, byte for byte, in every process."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from streams.device import open_device
from streams.monitor import Span
from tests.streams.simulated.tools import Spans, add, copy_of, tagged

_ROOT = Path(__file__).resolve().parents[3]


def spans_of(seed: int, *, extra: bool = False, profile: str = "random") -> list[Span]:
    """Run a program of three streams; ``extra`` puts work of no consequence between."""
    spans = Spans()
    with open_device("sim", seed=seed, profile=profile) as device:
        device.add_monitor(spans)
        cell, streams = torch.zeros(2), [device.stream(name) for name in "abc"]
        unrelated = device.stream("unrelated")
        for step in range(10):
            for stage, stream in zip(("prepare", "forward", "publish"), streams, strict=True):
                with tagged(stage, step):
                    if extra:
                        unrelated.launch(copy_of, cell)
                    stream.launch(add, cell, 1.0, reads=[cell], writes=[cell])
                    stream.wait_stream(streams[step % 3])
        device.synchronize()
        spans.spans.append(Span("result", str(cell.tolist()), 0, None, 0.0, 0.0, False))
    return spans.spans


def test_same_seed_gives_the_same_spans() -> None:
    """A run is a function of its seed; another seed gives another run."""
    assert spans_of(1) == spans_of(1)
    assert spans_of(1) != spans_of(2)
    assert spans_of(1) != spans_of(1, profile="rocm")


def test_durations_do_not_depend_on_other_streams() -> None:
    """Work that is put between on another stream changes no duration."""
    plain = [span for span in spans_of(3) if span.stream in "abc"]
    mixed = [span for span in spans_of(3, extra=True) if span.stream in "abc"]
    assert plain == mixed


def test_same_seed_gives_the_same_spans_in_another_process() -> None:
    """Neither hashes nor addresses have a say."""
    script = "from tests.streams.simulated.test_replay import spans_of; print(spans_of(7))"
    printed = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=_ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        ).stdout
        for hash_seed in ("1", "4242")
    ]
    assert printed == [f"{spans_of(7)}\n"] * 2
