"""Litmus cases for every device: order, questions, errors."""

from collections.abc import Callable

from benchmarks.litmus_lab import Case, Finding, Lab, holds_if
from streams.errors import EventNotRecordedError
from streams.event import Event
from tests.streams.conformance.work import BoomError, append, boom, copy_of, fill, nothing

__all__ = ["CASES"]

_NUM_STREAMS = 32


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
    Case("query", "a query never blocks, and yes stays yes", query_never_blocks),
    Case("error", "an error in a launch stays with that launch", error_stays_with_its_launch),
)
