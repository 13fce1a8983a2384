"""What an observer of a device is told."""

import pytest

from streams.current import WorkTag, work_tag
from streams.device import Device
from streams.event import Event
from streams.launch import Operation
from streams.monitor import DeviceMonitor, Span
from streams.stream import Stream
from tests.device_fixtures import Bench, Cells
from tests.streams.conformance.work import BoomError, append, boom, nothing


class Log(DeviceMonitor):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.operations: list[Operation] = []
        self.accesses: list[tuple[list[int], list[int]]] = []
        self.spans: list[Span] = []

    def on_launch(self, operation: Operation) -> None:
        """Note the label and the accesses, and keep the operation."""
        self.calls.append(("launch", operation.label))
        self.operations.append(operation)
        self.accesses.append((list(map(id, operation.reads)), list(map(id, operation.writes))))

    def on_record(self, event: Event) -> None:
        """Note the label."""
        self.calls.append(("record", event.label))

    def on_wait(self, stream: Stream, event: Event) -> None:
        """Note who waits for what."""
        self.calls.append(("wait", stream.name, event.label))

    def on_observed(self, event: Event) -> None:
        """Note the label."""
        self.calls.append(("observed", event.label))

    def on_span(self, span: Span) -> None:
        """Keep the span."""
        self.spans.append(span)


async def test_monitor_sees_every_call_in_order(device: Device, cells: Cells) -> None:
    """Launches, records, waits and observations come as they were made."""
    log, cell = Log(), cells(0)
    one, two = device.stream("one"), device.stream("two")
    device.add_monitor(log)
    first = one.launch(append, cell, 1)
    done = one.record("done")
    two.wait_event(done)
    second = two.launch(append, first, 2)
    await second
    assert log.calls == [
        ("launch", "append"),
        ("record", "done"),
        ("wait", "two", "done"),
        ("wait", "two", "append"),
        ("launch", "append"),
        ("observed", "append"),
    ]
    assert cell.tolist() == [12]


async def test_monitor_sees_declared_accesses(device: Device, cells: Cells) -> None:
    """The operation carries what a hazard checker needs until it is done, then only its names."""
    log, cell, other = Log(), cells(0), cells(0)
    one = device.stream("one")
    device.add_monitor(log)
    token = work_tag.set(WorkTag(3, "forward"))
    one.launch(append, cell, 1, reads=(other,), writes=[cell, other])
    work_tag.reset(token)
    await one.record("end")
    operation = log.operations[0]
    assert log.accesses == [([id(other)], [id(cell), id(other)])]
    assert operation.tag == WorkTag(3, "forward")
    assert str(operation) == "append #1 of forward#3"
    assert (operation.args, operation.reads, operation.writes) == ((), (), ())


async def test_removed_monitor_is_told_nothing(device: Device) -> None:
    """A monitor can leave while another stays."""
    leaver, stayer = Log(), Log()
    device.add_monitor(leaver)
    device.add_monitor(stayer)
    device.remove_monitor(leaver)
    await device.stream("s").launch(nothing)
    assert leaver.calls == []
    assert stayer.calls != []


async def test_spans_come_where_the_device_can_time(bench: Bench) -> None:
    """A device that times its work reports each launch once, in order, failures marked."""
    log = Log()
    with bench.open() as device:
        device.add_monitor(log)
        stream = device.stream("s")
        await stream.launch(nothing)
        with pytest.raises(BoomError):
            await stream.launch(boom)
        await device.drain()
    if not device.capabilities.device_timing:
        assert log.spans == []
        return
    assert [(span.label, span.number, span.failed) for span in log.spans] == [
        ("nothing", 1, False),
        ("boom", 2, True),
    ]
    assert all(span.start_s <= span.end_s for span in log.spans)
    assert log.spans[0].end_s <= log.spans[1].start_s
    assert stream.busy_s == pytest.approx(sum(span.end_s - span.start_s for span in log.spans))
