"""Litmus cases about drivers and host memory; most need CUDA, and say so elsewhere."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from benchmarks.driver_calls import gil_rows, query_rows
from benchmarks.litmus_lab import Case, Finding, Lab, holds_if, not_here
from streams.accelerator.stream import AcceleratorStream
from streams.errors import StreamAliasError
from streams.stream import Stream
from tests.streams.conformance.work import copy_of, nothing

__all__ = ["CASES", "QUERY_IN_CAPTURE"]

_MOST_QUERY_US = 20.0  # ten times what most profiles of the simulated device charge
_BLOCKED_S = 0.5
_BLOCK_SIZE = 1 << 20

#: A program that polls while a capture is open, and prints whether that has broken it.
QUERY_IN_CAPTURE = """
import torch
event, stream, cell = torch.cuda.Event(), torch.cuda.Stream(), torch.zeros(1, device="cuda")
event.record(stream)
torch.cuda.synchronize()
try:
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        cell.add_(1)
        event.query()
except RuntimeError as error:
    print("broken" if "captur" in str(error) else error)
"""

_new_event: Callable[[], Any] = torch.cuda.Event  # torch declares neither with types
_current_stream: Callable[[], Any] = torch.cuda.current_stream


def _cuda(ask: Callable[[Lab], Finding]) -> Callable[[Lab], Finding]:
    @wraps(ask)
    def ask_cuda(lab: Lab) -> Finding:
        if not lab.is_cuda:
            return not_here("needs CUDA: there is no driver to ask")
        return ask(lab)

    return ask_cuda


def query_cost(lab: Lab) -> Finding:
    """Time queries as the poller makes them."""
    if lab.is_simulated:
        return not_here("needs real time: the profile says what a query costs")
    rows = query_rows(lab.device.name, batches=5)
    worst = max(row["cost_us"]["p50"] for row in rows)
    costs = ", ".join(
        f"{row['call']} {row['event']}{' beside work' if row['busy'] else ''} "
        f"{row['cost_us']['p50']}"
        for row in rows
    )
    return holds_if(worst <= _MOST_QUERY_US, f"median us: {costs}")


def query_holds_the_gil(lab: Lab) -> Finding:
    """Count the turns of another thread during queries."""
    if lab.is_simulated:
        return not_here("needs real threads: the simulated device has none")
    rows = [row for row in gil_rows(lab.device.name, repeats=100) if "block" not in row["call"]]
    seen = ", ".join(f"{row['turns_of_others']} in {row['calls']} {row['call']}" for row in rows)
    queries = [row["turns_of_others"] for row in rows if "launch" not in row["call"]]
    return holds_if(not any(queries), f"turns of another thread: {seen}")


@_cuda
def native_unrecorded(lab: Lab) -> Finding:
    """Ask torch about an event that nothing recorded."""
    return holds_if(_new_event().query(), f"its query says {_new_event().query()}")


@_cuda
def native_record_again(lab: Lab) -> Finding:
    """Record one native event twice, the second time behind a hold."""
    producer, consumer, cell = lab.stream("producer"), lab.stream("consumer"), lab.cells(3)
    event = _new_event()
    producer.launch(lambda: event.record())
    consumer.launch(lambda: _current_stream().wait_event(event))
    held = lab.hold(producer)
    producer.launch(lambda: event.record())
    seen = lab.value(consumer.launch(copy_of, cell, reads=[cell]))
    is_held = not held.launch.query()
    return holds_if(is_held, f"the waiter read {seen}, the second record still held: {is_held}")


@_cuda
def native_handles(lab: Lab) -> Finding:
    """Open many streams and compare what the driver knows them by."""
    num_refused = 0
    for index in range(64):
        try:
            lab.device.stream(f"s{index}", priority=-(index % 2))
        except StreamAliasError:
            num_refused += 1
    streams = [_native(stream) for stream in lab.device.streams]
    handles = [stream.device.native.handle(stream.native) for stream in streams]
    return holds_if(
        len(set(handles)) == len(handles) and 0 not in handles,
        f"{len(set(handles))} handles of {len(handles)} open streams, {num_refused} refused",
    )


@_cuda
def poll_in_capture(lab: Lab) -> Finding:
    """Let torch query an event during a capture, and this library not."""
    ran = subprocess.run(
        [sys.executable, "-c", QUERY_IN_CAPTURE],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    torchs = ran.stdout.strip() or ran.stderr.strip()[-200:] or "fine"
    stream = lab.stream("s")
    held = lab.hold(stream)
    before = stream.completed
    with lab.device.capture():
        held.release()
        time.sleep(0.05)  # by now the device is done, and a query would tell
        stood_still = not any(held.launch.query() for _ in range(100))
        stood_still = stood_still and stream.completed == before
    lab.finish(held.launch)
    return holds_if(
        torchs == "broken" and stood_still,
        f"a capture with torch's query in it: {torchs}; ours asked nothing: {stood_still}",
    )


@_cuda
def pageable_copy_blocks(lab: Lab) -> Finding:
    """Copy to pinned and to pageable memory behind a hold, each from a thread of its own."""
    stream, source = lab.stream("copy"), lab.cells(7)
    pageable = torch.zeros(1, dtype=torch.int64)
    pinned = pageable.pin_memory()
    held = lab.hold(stream)
    copies = [_Copier(stream, source, host) for host in (pinned, pageable)]
    came_back = [copy.came_back_soon() for copy in copies]
    held.release()
    for copy in copies:
        copy.join()
    return holds_if(
        came_back == [True, False],
        f"back before the copy was made: pinned {came_back[0]}, pageable {came_back[1]}",
    )


class _Copier:
    """A thread that copies to the host on a native stream."""

    def __init__(self, stream: Stream, source: Tensor, host: Tensor) -> None:
        self._native, self._source, self._host = _native(stream).native, source, host
        self._came_back = threading.Event()
        self._thread = threading.Thread(target=self._copy, name="copier")
        self._thread.start()

    def came_back_soon(self) -> bool:
        return self._came_back.wait(_BLOCKED_S)

    def join(self) -> None:
        self._thread.join()

    def _copy(self) -> None:
        make_current: Callable[[Any], Any] = torch.cuda.stream
        with make_current(self._native):
            self._host.copy_(self._source, non_blocking=True)
        self._came_back.set()


@_cuda
def freed_block_is_reused(lab: Lab) -> Finding:
    """Drop a block that another stream may still read, and allocate as much."""
    producer, reader = lab.stream("producer"), lab.stream("reader")
    blocks: list[Tensor] = []
    lab.finish(producer.launch(lambda: blocks.append(_block())), reader.launch(nothing))
    held, address = lab.hold(reader), blocks[0].data_ptr()
    blocks.clear()
    lab.finish(producer.launch(lambda: blocks.append(_block())))
    is_same = blocks[0].data_ptr() == address
    return holds_if(
        is_same and not held.launch.query(),
        f"the next block of that size has the same address: {is_same}",
    )


def _block() -> Tensor:
    return torch.empty(_BLOCK_SIZE, dtype=torch.uint8, device="cuda")


def _native(stream: Stream) -> AcceleratorStream:
    assert isinstance(stream, AcceleratorStream)
    return stream


CASES = (
    Case("query_cost", f"a query takes no more than {_MOST_QUERY_US:.0f} us", query_cost),
    Case("query_gil", "a query lets no other Python thread run", query_holds_the_gil),
    Case("torch_unrecorded", "torch calls an unrecorded event complete", native_unrecorded),
    Case("torch_record_again", "a native wait keeps to its record too", native_record_again),
    Case("handles", "64 streams have distinct native handles, or are refused", native_handles),
    Case("capture", "a query breaks a capture, so a poll is refused in one", poll_in_capture),
    Case("pageable", "a copy to pageable memory blocks, to pinned not", pageable_copy_blocks),
    Case("reuse", "a freed block is given out at once", freed_block_is_reused),
)
