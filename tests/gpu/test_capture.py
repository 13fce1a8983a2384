"""Graph capture beside polling: no query may reach the driver while a capture is open."""

import subprocess
import sys
import threading

import pytest
import torch

from benchmarks.litmus_native import QUERY_IN_CAPTURE
from streams.current import use_stream
from streams.device import Device
from tests.device_fixtures import Cells, HoldFactory
from tests.streams.conformance.work import append

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("mode", ["global", "thread_local"])
async def test_capture_succeeds_while_others_poll(
    device: Device, hold: HoldFactory, cells: Cells, mode: str
) -> None:
    """Pollers on this and on another thread leave an open capture alone; the replay is right.

    The capture is begun by hand: ``torch.cuda.graph`` first waits for the whole device.
    """
    stream, busy, cell = device.stream("s"), device.stream("busy"), cells(0)
    await stream.launch(append, cell, 0)
    held = hold(busy)
    number, is_open, polled = held.launch.event.number, threading.Event(), threading.Event()

    def poll() -> None:
        is_open.wait()
        for _ in range(1000):
            busy.advance(number)
        polled.set()

    poller = threading.Thread(target=poll)
    poller.start()
    graph = torch.cuda.CUDAGraph()
    with device.capture(), use_stream(stream):
        graph.capture_begin(capture_error_mode=mode)
        append(cell, 1)
        append(cell, 2)
        is_open.set()
        polled.wait()
        assert not held.launch.query()
        graph.capture_end()
    poller.join()
    held.release()
    await held.launch
    await stream.launch(graph.replay)
    assert cell.tolist() == [12]


def test_query_breaks_a_capture() -> None:
    """The reason: torch's own query of an event makes an open capture fail."""
    done = subprocess.run(
        [sys.executable, "-c", QUERY_IN_CAPTURE],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.stdout == "broken\n", done.stderr
