"""Errors of a real device: one that stays, one that does not, and the way out of the process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from streams.device import Device
from tests.device_fixtures import Bench
from tests.streams.conformance.work import nothing

pytestmark = pytest.mark.gpu

_ROOT = Path(__file__).resolve().parents[2]

_BAD_INDEX = """
import asyncio, torch
from streams.device import open_device
from streams.errors import DeviceLostError

async def main():
    device = open_device({name!r}, issue={issue!r})
    stream, other = device.stream("s"), device.stream("other")
    table = torch.zeros(4, device="cuda")
    index = torch.tensor([1 << 20], device="cuda")
    torch.cuda.synchronize()
    bad = stream.launch(torch.index_select, table, 0, index)
    told = await asyncio.gather(bad.wait(60), bad.wait(60), return_exceptions=True)
    assert all(isinstance(error, DeviceLostError) for error in told), told
    try:
        other.launch(int)
    except DeviceLostError:
        print("lost for all")

asyncio.run(main())
print("end of main")
"""


def test_bad_index_loses_the_device_and_the_process_still_exits(bench: Bench) -> None:
    """A device-side assert reaches every waiter once; forgetting to close does not hang."""
    name, issue = bench.program()
    done = subprocess.run(
        [sys.executable, "-c", _BAD_INDEX.format(name=name, issue=issue)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.stdout.splitlines() == ["lost for all", "end of main"], done.stderr


async def test_out_of_memory_costs_one_launch(device: Device) -> None:
    """A real allocation failure is told to its waiter, and the device goes on."""
    stream = device.stream("s")
    with pytest.raises(torch.OutOfMemoryError):
        await stream.launch(torch.empty, 1 << 50, dtype=torch.uint8, device="cuda")
    await stream.launch(nothing)
    assert device.lost is None


async def test_wrong_shapes_cost_one_launch(device: Device) -> None:
    """So does an error that torch finds before it launches anything."""
    stream = device.stream("s")
    with pytest.raises(RuntimeError):
        await stream.launch(torch.matmul, torch.ones(2, 3), torch.ones(2, 3))
    await stream.launch(nothing)
    assert device.lost is None
