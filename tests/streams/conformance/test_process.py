"""Process life: forks, and exits of programs that forgot to close."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.device_fixtures import Bench

_ROOT = Path(__file__).resolve().parents[3]

_FORK = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks with threads
from streams.device import open_device
from streams.errors import DeviceClosedError

device = open_device({name!r}, issue={issue!r})
stream = device.stream("s")
launch = stream.launch(int)
stream.synchronize()
later = stream.launch(int)
child = os.fork()
if child == 0:
    refused = 0
    for use in (lambda: stream.launch(int), stream.synchronize, lambda: device.stream("t"),
                lambda: stream.block_until(99), lambda: stream.advance(99)):
        try:
            use()
        except DeviceClosedError as error:
            refused += "fork" in str(error)
    device.close()
    sys.exit(0 if refused >= 3 else 1)  # runs the exit handlers of the child
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
stream.synchronize()
assert later.result() == 0
device.close()
print("parent done")
"""

_FORGOTTEN = """
import torch
from streams.device import open_device

device = open_device({name!r}, issue={issue!r})
one, two = device.stream("one"), device.stream("two")
weights = torch.ones(64, 64, device=device.torch_device)
for _ in range(200):
    two.launch(torch.matmul, one.launch(torch.matmul, weights, weights), weights)
idle = open_device({name!r}, issue={issue!r}).stream("idle")
print("main done")
"""


def run(script: str, bench: Bench) -> subprocess.CompletedProcess[str]:
    """Run a program that opens a device of this kind."""
    name, issue = bench.program()
    return subprocess.run(
        [sys.executable, "-c", script.format(name=name, issue=issue)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_is_told_and_the_parent_goes_on(bench: Bench) -> None:
    """In a child every use says that the device stayed in the parent; nothing hangs."""
    done = run(_FORK, bench)
    assert (done.returncode, done.stdout) == (0, "parent done\n"), done.stderr


def test_exit_without_close_ends_cleanly(bench: Bench) -> None:
    """A program that forgot its devices, busy and idle, exits at once and in peace."""
    done = run(_FORGOTTEN, bench)
    assert (done.returncode, done.stdout, done.stderr) == (0, "main done\n", "")
