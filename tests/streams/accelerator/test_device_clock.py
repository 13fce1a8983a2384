"""Device times in the host's, over a scripted device whose clock is coarse and runs slow."""

import struct
from itertools import pairwise
from typing import cast

import pytest
import torch

from streams.accelerator.clock import DeviceClock


class Stamp:
    """An event that was recorded at a known device time."""

    def __init__(self, device_s: float) -> None:
        self.device_s = device_s

    def elapsed_time(self, end: "Stamp") -> float:
        """Return milliseconds as torch does: a 32-bit float."""
        exact = (end.device_s - self.device_s) * 1e3
        return cast(float, struct.unpack("f", struct.pack("f", exact))[0])


class Script:
    """A device that runs one launch after the other, and a host that sees them."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, rate: float = 1.0, seen_late_s: float = 0.0
    ) -> None:
        self.rate = rate
        monkeypatch.setattr("time.perf_counter", lambda: 1000.0 + seen_late_s)
        self.clock = DeviceClock(self.stamp(1000.0))

    def stamp(self, host_s: float) -> torch.Event:
        """Return an event recorded at this host time, as the device's clock has it."""
        return cast(torch.Event, Stamp(77.0 + (host_s - 1000.0) * self.rate))

    def run(self, start_s: float, end_s: float, *, slack_s: float = 5e-5) -> tuple[float, float]:
        """Measure a launch that ran at these host times and was seen ``slack_s`` later."""
        start, end = self.stamp(start_s), self.stamp(end_s)
        span = self.clock.measure(start, end, start_s - slack_s, end_s + slack_s)
        self.clock.roll(end, span[1])
        return span


def test_launch_is_placed_where_it_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """With clocks that agree, device times are host times."""
    script = Script(monkeypatch)
    for at in (1000.5, 1000.6, 1003.0):
        assert script.run(at, at + 0.01) == pytest.approx((at, at + 0.01), abs=1e-6)


@pytest.mark.parametrize("rate", [1 - 1e-5, 1 + 1e-5])
def test_clock_that_drifts_is_held_to_what_the_host_saw(
    monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    """Ten hours of 10 us drift a second leave an error of no more than what the host saw."""
    script = Script(monkeypatch, rate=rate)
    for index in range(3600):
        at = 1001.0 + 10 * index
        start_s, end_s = script.run(at, at + 0.004)
        assert start_s == pytest.approx(at, abs=1.5e-4)
        assert end_s - start_s == pytest.approx(0.004, abs=1e-6)


def test_long_run_does_not_coarsen(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour, the time between two launches is still told to a microsecond.

    Measured from the start of the hour, it would come in steps of 250 us.
    """
    script = Script(monkeypatch)
    starts = []
    for index in range(2400):
        at = 1000.5 + 1.500137 * index
        starts.append(script.run(at, at + 0.003, slack_s=10.0)[0])
    gaps = [after - before for before, after in pairwise(starts)]
    assert (min(gaps), max(gaps)) == pytest.approx((1.500137, 1.500137), abs=1e-6)


def test_correction_holds_for_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """One launch that was seen closely corrects the clock for others that were not."""
    script = Script(monkeypatch, seen_late_s=3e-3)
    assert script.run(1000.1, 1000.2)[0] == pytest.approx(1000.1, abs=1e-4)
    assert script.run(1000.3, 1000.4, slack_s=10.0)[0] == pytest.approx(1000.3, abs=1e-4)


def test_spans_of_one_stream_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A correction between two launches does not let the second begin before the first ended."""
    script = Script(monkeypatch, seen_late_s=3e-3)
    _, end_s = script.run(1000.1, 1000.2, slack_s=10.0)
    start_s, _ = script.run(1000.2, 1000.3)
    assert start_s >= end_s
