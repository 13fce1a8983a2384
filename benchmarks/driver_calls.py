"""What the calls that a poller and an issuer make cost, and whether they hold the GIL."""

import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from aio_sched.bench.device_work import DeviceWork, Worker, device_worker
from streams.device import Device, IssueMode, Platform, open_device
from streams.stream import Stream

__all__ = ["gil_rows", "launch_rows", "query_rows", "turns_of_others"]

Call = Callable[[], object]

_PENDING_S = 0.2
_BATCH = 200
_ISSUE_MODES: tuple[IssueMode, ...] = ("inline", "thread")


def query_rows(device: str, *, batches: int = 25) -> list[dict[str, Any]]:
    """Time queries of complete and of pending events, on an idle and on a busy device.

    ``advance`` is this library's query of a stream; where torch has events of its own,
    theirs are timed as well. Busy means that another stream works all the while.
    """
    rows = []
    with open_device(device) as opened:
        for is_busy in (False, True):
            for state in ("complete", "pending"):
                with _queries(opened, state == "pending", is_busy) as queries:
                    for name, query in queries.items():
                        cost_us = _cost_us(query, batches)
                        rows.append(
                            {"call": name, "event": state, "busy": is_busy, "cost_us": cost_us}
                        )
    return rows


def launch_rows(device: str, *, batches: int = 25) -> list[dict[str, Any]]:
    """Time what a launch takes from its caller's thread, by where it is issued.

    An empty function shows this library's own part, a small kernel the driver's too.
    """
    rows = []
    for issue in _ISSUE_MODES:
        with open_device(device, issue=issue) as opened:
            cells = torch.zeros(16, device=opened.torch_device)
            for name, fn in (("nothing", _nothing), ("small kernel", partial(cells.add_, 1))):
                stream = opened.stream(name)
                launch = partial(stream.launch, fn)
                cost_us = _cost_us(launch, batches, between=partial(_run_dry, stream))
                rows.append({"issue": issue, "launch": name, "cost_us": cost_us})
                stream.close()
    return rows


def gil_rows(device: str, *, repeats: int = 500) -> list[dict[str, Any]]:
    """Count how often another Python thread got a turn during calls.

    The interpreter is told never to take the GIL away, so another thread runs only if
    a call gives it up. None at all means that the call holds it.
    """
    rows = []
    with open_device(device) as opened, _queries(opened, True, False) as queries:
        stream = opened.stream("blocked")
        calls: dict[str, tuple[Call, int]] = {
            **{name: (query, repeats) for name, query in queries.items()},
            "launch of nothing": (partial(stream.launch, _nothing), repeats),
            "block_until": (partial(_block, stream, device_worker(opened)(0.002)), 5),
        }
        for name, (call, times) in calls.items():
            turns = turns_of_others(call, times)
            rows.append({"call": name, "calls": times, "turns_of_others": turns})
        _run_dry(stream)
    return rows


def turns_of_others(call: Call, repeats: int) -> int:
    """Call ``repeats`` times; return how often a thread beside got the GIL meanwhile."""
    turns, is_over = 0, threading.Event()

    def bystander() -> None:
        nonlocal turns
        while not is_over.is_set():
            turns += 1
            time.sleep(0)

    thread = threading.Thread(target=bystander, name="bystander")
    former = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    thread.start()
    try:
        while turns == 0:
            time.sleep(0)
        before = turns
        for _ in range(repeats):
            call()
        return turns - before
    finally:
        sys.setswitchinterval(former)
        is_over.set()
        thread.join()


@contextmanager
def _queries(device: Device, pending: bool, busy: bool) -> Iterator[dict[str, Call]]:
    """Give the ways to ask for an event in a state; the device runs dry at the end."""
    asked, other = device.stream("asked"), device.stream("other")
    worker = device_worker(device)
    if busy:
        _fill(other, worker)
    if pending:
        _fill(asked, worker)
    launch = asked.launch(_nothing)
    native = _native_event(device, asked)
    if not pending:
        asked.block_until(asked.record("complete").number)
    calls: dict[str, Call] = {"Stream.advance": partial(asked.advance, launch.event.number)}
    if native is not None:
        calls["torch.cuda.Event.query"] = native.query
    try:
        yield calls
    finally:
        for stream in (asked, other):
            _run_dry(stream)
            stream.close()


def _fill(stream: Stream, worker: Worker) -> None:
    for _ in range(4):
        stream.launch(worker(_PENDING_S / 4).queued(), None)


def _native_event(device: Device, stream: Stream) -> Any:
    """Record torch's own event on ``stream``; None where torch has none for the device."""
    if device.platform not in (Platform.CUDA, Platform.ROCM):
        return None
    event: Any = _torch_event()
    launch = stream.launch(lambda: event.record())
    launch.issued_value()
    return event


_torch_event: Callable[[], Any] = torch.cuda.Event  # which torch declares without types


def _cost_us(call: Call, batches: int, between: Call | None = None) -> dict[str, float]:
    """Return the median, over batches, of what one call takes, and the cheapest batch."""
    costs = []
    for _ in range(batches):
        start_s = time.perf_counter()
        for _ in range(_BATCH):
            call()
        costs.append((time.perf_counter() - start_s) / _BATCH * 1e6)
        if between is not None:
            between()
    return {"p50": round(statistics.median(costs), 3), "min": round(min(costs), 3)}


def _nothing() -> None:
    """Put nothing on the device."""


def _block(stream: Stream, work: DeviceWork) -> None:
    stream.block_until(stream.launch(work.queued(), None).event.number)


def _run_dry(stream: Stream) -> None:
    stream.block_until(stream.record("dry").number)
