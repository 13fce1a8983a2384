"""The emulated accelerator: completions in order, at the moments that were drawn."""

import threading
import time
from itertools import pairwise

import pytest

from aio_sched.bench.emulated import TimedDevice
from streams.errors import DeviceClosedError


def test_completions_follow_each_other_by_the_interval() -> None:
    """Work queues up: each piece takes its interval after the former."""
    with TimedDevice(1000.0, jitter=0.0) as device:
        (stream,) = device.timed_streams(1)
        before_ns = time.perf_counter_ns()
        events = [stream.enqueue() for _ in range(3)]
        done = [stream.take_done_ns(event.number) for event in events]
    assert done[0] >= before_ns + 1_000_000_000
    assert [later - earlier for earlier, later in pairwise(done)] == [1_000_000_000] * 2


def test_idle_stream_starts_when_it_gets_work() -> None:
    """A device that ran dry does not work ahead."""
    with TimedDevice(0.1, jitter=0.0) as device:
        (stream,) = device.timed_streams(1)
        first = stream.enqueue()
        stream.block_until(first.number)
        before_ns = time.perf_counter_ns()
        assert stream.take_done_ns(stream.enqueue().number) >= before_ns + 100_000


def test_query_answers_for_its_own_number_and_not_before_its_time() -> None:
    """As a native event's query, it says nothing about later ones."""
    with TimedDevice(60_000.0) as device:
        (stream,) = device.timed_streams(1)
        assert stream.advance(stream.enqueue().number) == 0
    with TimedDevice(0.1) as device:
        (stream,) = device.timed_streams(1)
        first, second = stream.enqueue(), stream.enqueue()
        stream.block_until(second.number)
        assert stream.advance(first.number) == first.number
        assert stream.advance(second.number) == second.number


def test_query_costs_what_it_was_told_to() -> None:
    """The poller pays for each look."""
    with TimedDevice(1000.0, query_ns=200_000) as device:
        (stream,) = device.timed_streams(1)
        event = stream.enqueue()
        before_ns = time.perf_counter_ns()
        stream.advance(event.number)
        assert time.perf_counter_ns() - before_ns >= 200_000


@pytest.mark.parametrize(("jitter", "spread"), [(0.0, 0.0), (0.02, 0.02), (None, 0.46)])
def test_intervals_vary_as_they_were_told_to(jitter: float | None, spread: float) -> None:
    """The mean is the interval; the same seed draws the same."""
    draws = []
    for _ in range(2):
        with TimedDevice(100.0, jitter=jitter, seed=7) as device:
            (stream,) = device.timed_streams(1)
            done = [stream.take_done_ns(stream.enqueue().number) for _ in range(500)]
            draws.append([b - a for a, b in pairwise(done)])
    assert draws[0] == draws[1]
    mean = sum(draws[0]) / len(draws[0])
    deviation = (sum((draw - mean) ** 2 for draw in draws[0]) / len(draws[0])) ** 0.5
    assert mean == pytest.approx(1e8, rel=0.05)
    assert deviation / mean == pytest.approx(spread, rel=0.1, abs=1e-6)


def test_closing_lets_blocked_threads_go() -> None:
    """Nothing completes on a closed device, and whoever waits is told."""
    device = TimedDevice(60_000.0)
    (stream,) = device.timed_streams(1)
    event = stream.enqueue()
    errors: list[BaseException] = []

    def block() -> None:
        try:
            stream.block_until(event.number)
        except DeviceClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=block)
    thread.start()
    device.close()
    thread.join(10)
    assert len(errors) == 1
    with pytest.raises(DeviceClosedError):
        stream.advance(event.number)


def test_functions_are_refused() -> None:
    """It has nothing to run them on."""
    with TimedDevice(1.0) as device, pytest.raises(TypeError, match=r"use enqueue\(\)"):
        device.stream("s").launch(print)
