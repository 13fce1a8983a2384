"""Device times in the host's."""

import pytest

from streams.accelerator import AcceleratorDevice
from streams.monitor import DeviceMonitor, Span
from tests.streams.accelerator.tools import stream_of
from tests.streams.conformance.work import BoomError, boom, nothing
from tests.streams.fake_torch import FakeTorch


def test_spans_lie_between_issue_and_observation(fake: FakeTorch) -> None:
    """Device times are mapped to the host's clock: after the issue, before it was seen."""
    spans: list[Span] = []

    class Log(DeviceMonitor):
        def on_span(self, span: Span) -> None:
            spans.append(span)

    with AcceleratorDevice("cuda", 0, issue="inline", timing=True) as device:
        device.add_monitor(Log())
        stream = stream_of(device, "s")
        for _ in range(3):
            stream.launch(nothing)
            stream.wait_event(stream.record("end"))
        with pytest.raises(BoomError):
            stream.launch(boom).result()
        stream.block_until(4)
        assert [span.failed for span in spans] == [False, False, False, True]
        times = [time for span in spans for time in (span.start_s, span.end_s)]
        assert times == sorted(times)
        assert stream.busy_s == pytest.approx(sum(s.end_s - s.start_s for s in spans))
