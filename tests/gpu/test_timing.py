"""Timing events of a real device."""

import pytest
import torch

from streams.device import IssueMode, open_device
from streams.monitor import DeviceMonitor, Span
from tests.streams.conformance.work import nothing

pytestmark = pytest.mark.gpu


class Spans(DeviceMonitor):
    """Keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def on_span(self, span: Span) -> None:
        """Keep it."""
        self.spans.append(span)


@pytest.mark.parametrize("issue", ["inline", "thread"])
async def test_long_kernel_is_longer_than_an_empty_launch(issue: IssueMode) -> None:
    """Spans come from the device: the host returned at once from both launches."""
    log = Spans()
    with open_device("cuda", issue=issue, timing=True) as device:
        device.add_monitor(log)
        stream = device.stream("s")
        await stream.launch(nothing)
        await stream.launch(torch.cuda._sleep, 20_000_000)
        await stream.launch(nothing)
    durations = [span.end_s - span.start_s for span in log.spans]
    assert len(durations) == 3
    assert durations[1] > 10 * max(durations[0], durations[2])
    assert [span.start_s for span in log.spans] == sorted(span.start_s for span in log.spans)
    assert stream.busy_s == pytest.approx(sum(durations))
