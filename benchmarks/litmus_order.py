"""Litmus cases for every device: order, visibility, questions, errors."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.litmus_lab import Case, Finding, Lab, holds_if
from streams.errors import EventNotRecordedError
from streams.event import Event
from streams.stream import Stream
from tests.streams.conformance.work import BoomError, append, boom, copy_of, fill, nothing

__all__ = ["CASES"]

_NUM_STREAMS = 32
_MIDDLE_S = 0.02  # how long a real launch is between its two reads


# Order ------------------------------------------------------------------------


def fifo(lab: Lab) -> Finding:
    """Queue behind a hold, then let go: each digit says when it was written."""
    stream, cell = lab.stream("s"), lab.cells(0)
    held = lab.hold(stream)
    for digit in range(1, 9):
        last = stream.launch(append, cell, digit, reads=[cell], writes=[cell])
    held.release()
    digits = lab.value(last)
    return holds_if(digits == [12345678], f"digits in the order {digits}")


def overlap(lab: Lab) -> Finding:
    """Occupy one stream and use the other, both ways round."""
    one, two = lab.stream("one"), lab.stream("two")
    for occupied, free in ((one, two), (two, one)):
        held = lab.hold(occupied)
        if not lab.is_done(free.launch(nothing)):
            return holds_if(False, f"work on {free.name!r} waited for what holds {occupied.name!r}")
        if held.launch.query():
            return holds_if(False, f"the hold on {occupied.name!r} ended before its release")
        held.release()
        lab.finish(held.launch)
    return holds_if(True, "each stream finished work while the other was occupied")


def own_queues(lab: Lab) -> Finding:
    """Occupy one of many streams; a queue that it shares holds others back too."""
    first, *others = [lab.stream(f"s{index}") for index in range(_NUM_STREAMS)]
    lab.hold(first)
    launches = [stream.launch(nothing) for stream in others]
    lab.is_done(*launches)
    num_stuck = sum(not launch.query() for launch in launches)
    return holds_if(
        not num_stuck, f"{num_stuck} of {len(others)} streams waited for the one that was held"
    )


def record_covers_the_past(lab: Lab) -> Finding:
    """Record, then occupy the stream: the record is complete nevertheless."""
    stream = lab.stream("s")
    stream.launch(nothing)
    event = stream.record("early")
    held = lab.hold(stream)
    is_done = lab.is_done(event)
    return holds_if(
        is_done and not held.launch.query(), f"{event!r} while later work of its stream was held"
    )


def wait_binds_to_the_record(lab: Lab) -> Finding:
    """Record under the same name again, behind a hold: the waiter keeps to the first."""
    producer, consumer, cell = lab.stream("producer"), lab.stream("consumer"), lab.cells(0)
    first_hold = lab.hold(producer)
    producer.launch(fill, cell, 1, writes=[cell])
    first = producer.record("done")
    second_hold = lab.hold(producer)
    consumer.wait_event(first)
    producer.record("done")
    seen = consumer.launch(copy_of, cell, reads=[cell])
    is_early = seen.query()
    first_hold.release()
    values = lab.value(seen)
    return holds_if(
        values == [1] and not is_early and not second_hold.launch.query(),
        f"the waiter read {values} while the second record was still held",
    )


def unrecorded_is_refused(lab: Lab) -> Finding:
    """Hand an event to a stream that nothing recorded."""
    stream = lab.stream("s")
    try:
        stream.wait_event(Event("orphan"))
    except EventNotRecordedError as error:
        return holds_if(lab.is_done(stream.launch(nothing)), f"refused: {error}")
    return holds_if(False, "the wait was accepted")


def wait_stream_covers_the_past(lab: Lab) -> Finding:
    """Three launches behind a hold, then ``wait_stream``: all three are seen."""
    producer, consumer, cell = lab.stream("producer"), lab.stream("consumer"), lab.cells(0)
    held = lab.hold(producer)
    for digit in (1, 2, 3):
        producer.launch(append, cell, digit, reads=[cell], writes=[cell])
    consumer.wait_stream(producer)
    seen = consumer.launch(copy_of, cell, reads=[cell])
    is_early = seen.query()
    held.release()
    values = lab.value(seen)
    return holds_if(values == [123] and not is_early, f"the other stream read {values}")


def waits_are_transitive(lab: Lab) -> Finding:
    """Wait for a stream that does nothing itself but wait."""
    first, middle, last = lab.stream("first"), lab.stream("middle"), lab.stream("last")
    cell = lab.cells(0)
    held = lab.hold(first)
    first.launch(fill, cell, 5, writes=[cell])
    middle.wait_stream(first)
    last.wait_stream(middle)
    seen = last.launch(copy_of, cell, reads=[cell])
    is_early = seen.query()
    held.release()
    values = lab.value(seen)
    return holds_if(values == [5] and not is_early, f"the third stream read {values}")


def argument_waits(lab: Lab) -> Finding:
    """Take the value of a launch on another stream that is held."""
    producer, consumer, cell = lab.stream("producer"), lab.stream("consumer"), lab.cells(0)
    held = lab.hold(producer)
    made = producer.launch(fill, cell, 7, writes=[cell])
    seen = consumer.launch(copy_of, made)
    is_early = seen.query()
    held.release()
    values = lab.value(seen)
    return holds_if(values == [7] and not is_early, f"the launch that took the value read {values}")


# Memory -----------------------------------------------------------------------


def write_lands_in_the_middle(lab: Lab) -> Finding:
    """Overwrite a table under a launch that reads it early and late: WAR without its fence."""
    seen = _overwritten(lab, is_fenced=False)
    return holds_if((1, 2) in seen, f"no fence: read {_counts(seen)}; 1 is old, 2 is new")


def fence_keeps_the_write_out(lab: Lab) -> Finding:
    """The same with the fence: only the old content."""
    seen = _overwritten(lab, is_fenced=True)
    return holds_if(set(seen) == {(1, 1)}, f"with the fence: read {_counts(seen)}")


def late_reader_sees_the_overwrite(lab: Lab) -> Finding:
    """Hold the reader back until the writer is done, with the fence and without."""
    with_fence, without = _overtaken(lab, True), _overtaken(lab, False)
    return holds_if(
        (with_fence, without) == ([1], [2]),
        f"the held reader read {with_fence} with the fence, {without} without; 1 is old, 2 is new",
    )


def early_host_read_is_old(lab: Lab) -> Finding:
    """Read the target of a copy before and after its event."""
    copy, source = lab.stream("copy"), lab.cells(7)
    host = torch.full((1,), -1, dtype=torch.int64)
    if lab.device.capabilities.pinned_memory:
        host = host.pin_memory()
    held = lab.hold(copy)
    copied = copy.launch(lambda: host.copy_(source, non_blocking=True), reads=[source])
    early = host.tolist()
    held.release()
    lab.finish(copied)
    return holds_if(
        early == [-1] and host.tolist() == [7],
        f"{early} before the event, {host.tolist()} after it",
    )


def visible_at_the_end(lab: Lab) -> Finding:
    """Read on another stream, with no wait, what the host knows to be complete."""
    writer, reader, size = lab.stream("writer"), lab.stream("reader"), 4096
    table = lab.cells(*([0] * size))
    wrong = []
    for value in range(1, 51):
        lab.finish(writer.launch(fill, table, value, writes=[table]))
        (total,) = lab.value(reader.launch(_total, table, reads=[table]))
        if total != value * size:
            wrong.append(value)
    return holds_if(not wrong, f"{len(wrong)} of 50 complete writes were not seen as a whole")


def _total(table: Tensor) -> Tensor:
    return table.sum().view(1)


def _overwritten(lab: Lab, *, is_fenced: bool) -> list[tuple[int, int]]:
    """Return what a launch read early and late in a table that another stream overwrote."""
    reader, writer = lab.stream("reader"), lab.stream("writer")
    return [
        _overwrite_once(lab, reader, writer, is_fenced)
        for _ in range(60 if lab.is_simulated else 8)
    ]


def _overwrite_once(lab: Lab, reader: Stream, writer: Stream, is_fenced: bool) -> tuple[int, int]:
    table = lab.cells(1, 1)
    early, late = table[:1], table[1:]
    be_busy = lab.busy(_MIDDLE_S)

    def read() -> tuple[Tensor, Tensor]:
        first = early.clone()
        be_busy(None)
        return first, late.clone()

    # On the simulated device the moment of each read is drawn; elsewhere work lies between them.
    seen = reader.launch(read, reads=[early, late])
    if is_fenced:
        # WAR: the writer reuses the table that the reader may still read.
        writer.wait_event(reader.record("shared_read_done"))
    written = writer.launch(fill, table, 2, writes=[table])
    lab.finish(written, seen)
    first, second = seen.result()
    return int(first), int(second)


def _overtaken(lab: Lab, is_fenced: bool) -> list[int]:
    """Return what a held reader saw of a table that another stream overwrote."""
    reader, writer = lab.stream(f"reader {is_fenced}"), lab.stream(f"writer {is_fenced}")
    table = lab.cells(1)
    held = lab.hold(reader)
    seen = reader.launch(copy_of, table, reads=[table])
    if is_fenced:
        # WAR: the writer reuses the table that the reader may still read.
        writer.wait_event(reader.record("shared_read_done"))
    written = writer.launch(fill, table, 2, writes=[table])
    if not is_fenced:
        lab.finish(written)
    held.release()
    lab.finish(written)
    return lab.value(seen)


def _counts(seen: list[tuple[int, int]]) -> str:
    return ", ".join(f"{pair} {seen.count(pair)} times" for pair in sorted(set(seen)))


# Questions and errors ---------------------------------------------------------


def query_never_blocks(lab: Lab) -> Finding:
    """Ask a held stream often, and go on asking after the release."""
    stream = lab.stream("s")
    lab.finish(stream.launch(nothing))
    held, before, counters, answers = lab.hold(stream), stream.completed, [], []
    for _ in range(500):
        answers.append(held.launch.query())
        counters.append(stream.completed)
    is_released = not any(answers)
    held.release()
    lab.finish(held.launch)
    after = [held.launch.query() for _ in range(50)]
    is_steady = counters == [before] * len(counters) and all(after)
    return holds_if(
        is_released and is_steady,
        f"{answers.count(False)} of 500 answers on a held stream were no, "
        f"{after.count(True)} of 50 after its end yes; the counter never went back: {is_steady}",
    )


def error_stays_with_its_launch(lab: Lab) -> Finding:
    """Let one launch fail between two others."""
    stream, cell = lab.stream("s"), lab.cells(0)
    fail: Callable[[], object] = boom
    stream.launch(append, cell, 1, reads=[cell], writes=[cell])
    bad = stream.launch(fail)
    values = lab.value(stream.launch(append, cell, 2, reads=[cell], writes=[cell]))
    is_well = values == [12] and lab.device.lost is None
    others = f"its neighbours wrote {values}, lost: {lab.device.lost}"
    try:
        bad.result()
    except BoomError as error:
        return holds_if(is_well, f"the launch raised {error!r}, {others}")
    return holds_if(False, f"the launch raised nothing, {others}")


CASES = (
    Case("fifo", "work of one stream runs in the order in which it was put", fifo),
    Case("overlap", "two streams run at the same time", overlap),
    Case("own_queues", f"none of {_NUM_STREAMS} streams waits for another", own_queues),
    Case("record", "a record covers what came before it, and no more", record_covers_the_past),
    Case("wait_binds", "a wait keeps to the record that it was given", wait_binds_to_the_record),
    Case("unrecorded", "an event that nothing recorded is refused", unrecorded_is_refused),
    Case("wait_stream", "wait_stream covers all earlier work", wait_stream_covers_the_past),
    Case("transitive", "waits go through a stream that only waits", waits_are_transitive),
    Case("argument", "a launch waits for values from other streams", argument_waits),
    Case("middle", "a write may land in the middle of a launch", write_lands_in_the_middle),
    Case("fence", "a fence keeps it out", fence_keeps_the_write_out),
    Case("overtaken", "a late reader sees what overtook it", late_reader_sees_the_overwrite),
    Case("early_copy", "the target of a copy is old before its event", early_host_read_is_old),
    Case("visible", "writes are visible at the end of a launch at the latest", visible_at_the_end),
    Case("query", "a query never blocks, and yes stays yes", query_never_blocks),
    Case("error", "an error in a launch stays with that launch", error_stays_with_its_launch),
)
