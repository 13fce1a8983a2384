"""Hand-made steps for the tests of statistics, traces and pictures; all times in seconds."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from aio_sched.trace import TraceRecorder
from streams.current import WorkTag
from streams.event import Event
from streams.monitor import Span

if TYPE_CHECKING:
    from streams.launch import Operation
    from streams.stream import Stream


class Clock:
    """Tells the time that was set."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Tell it."""
        return self.now_s


def operation(stream: str, number: int) -> "Operation":
    """Make what a device tells its monitors of a launch, as far as they look at it."""
    event = Event("launch", stream=cast("Stream", SimpleNamespace(name=stream)), number=number)
    launch = SimpleNamespace(event=event)
    return cast("Operation", SimpleNamespace(number=number, launch=launch))


def span(
    stream: str, number: int, step: int, start_s: float, end_s: float, *, stage: str = "forward"
) -> Span:
    """Make one run of a launch."""
    return Span(stream, "model", number, WorkTag(step, stage), start_s, end_s, False)


def record_step(recorder: TraceRecorder, clock: Clock, step: int, at_s: float) -> None:
    """Record a step with 10 ms of forward that was prepared at ``at_s``.

    Milliseconds from there: prepare 0-4, forward 4-5 (launches at 4.5), device 6-16, copy
    16-16.5, publish 5-19 (waits until 17). Steps 12 ms apart leave the device a gap of 2 ms and
    overlap in publish.
    """
    at = [at_s + tick / 4000 for tick in range(80)]  # quarters of a millisecond
    recorder.state("prepare", at_s)
    recorder.ran(step, "prepare", at[0], at[16])
    recorder.stage(step, "prepare", at[0], at[16], False)
    recorder.on_span(span("schedule", step, step, at[4], at[8], stage="prepare"))
    recorder.state("forward", at[16])
    clock.now_s = at[18]
    recorder.on_launch(operation("forward", step))
    recorder.ran(step, "forward", at[16], at[20])
    recorder.stage(step, "forward", at[16], at[20], False)
    recorder.state("room", at[20])
    recorder.on_span(span("forward", step, step, at[24], at[64]))
    recorder.on_span(span("copy", step, step, at[64], at[66]))
    recorder.ran(step, "publish", at[20], at[21])
    recorder.ran(step, "publish", at[68], at[76])
    recorder.stage(step, "publish", at[20], at[76], False)
    recorder.published(step, at[76])


def record_steps(num_steps: int, apart_s: float = 0.012) -> TraceRecorder:
    """Record steps 0, 1, ... that begin at equal distances, from second 100 on."""
    clock = Clock()
    recorder = TraceRecorder(clock=clock)
    for step in range(num_steps):
        record_step(recorder, clock, step, 100.0 + step * apart_s)
    return recorder
