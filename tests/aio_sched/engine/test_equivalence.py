"""Overlap changes timing, never tokens: random traces through both schedules.

Whatever arrives, ends or is aborted when, the overlapped engine writes the texts of the
sequential one, both write what a plain forward of the whole text says, and nothing is left behind.
"""

import asyncio
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aio_sched.engine.engine import Engine
from aio_sched.engine.errors import RequestAbortedError
from aio_sched.engine.requests import FinishReason, Request, SamplingParams
from aio_sched.monitor import SchedulerMonitor
from aio_sched.wakeup import Wakeup
from tests.aio_sched.engine.tiny import (
    LETTERS,
    assert_at_rest,
    assert_ended_in_time,
    assert_right,
    rigged,
    running,
)

MODEL = rigged()

HowToAbort = Literal["abort", "leave", "cancel"]


@dataclass(frozen=True)
class Abort:
    """When and how a request is given up.

    Attributes:
        how: by the engine's ``abort``, by cancelling the reader, or by a reader that leaves.
        after: published steps since the arrival, or tokens that the reader takes.
    """

    how: HowToAbort
    after: int


@dataclass(frozen=True)
class Arrival:
    """One request of a trace.

    Attributes:
        at: published steps of the engine at which it comes.
        turns: turns of the event loop to let pass then, so that it may come between two stages.
    """

    at: int
    turns: int
    prompt: bytes
    params: SamplingParams
    abort: Abort | None


@dataclass(frozen=True)
class Trace:
    """Requests, and the engine that gets them."""

    max_running: int
    depth: int
    arrivals: tuple[Arrival, ...]


# Around the sizes of one, two, four and six chunks.
lengths = st.sampled_from([1, 3, 4, 5, 8, 9, 16, 17, 25])
prompts = lengths.flatmap(
    lambda n: st.lists(st.sampled_from(LETTERS), min_size=n, max_size=n).map(bytes)
)
params = st.builds(
    SamplingParams,
    max_tokens=st.sampled_from([1, 2, 4, 8, 16]),
    temperature=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
    seed=st.one_of(st.integers(0, 5), st.integers(-(2**63), 2**63 - 1)),
    stop=st.one_of(st.none(), st.sampled_from([b"\6", b"\6\6", b"\6\1", b"\6\6\1", b"\1\6\6\6"])),
)
aborts = st.builds(Abort, st.sampled_from(["abort", "leave", "cancel"]), st.integers(0, 6))
arrivals = st.builds(
    Arrival,
    at=st.integers(0, 15),
    turns=st.integers(0, 5),
    prompt=prompts,
    params=params,
    abort=st.one_of(st.none(), aborts),
)
traces = st.builds(
    Trace,
    max_running=st.integers(1, 6),
    depth=st.sampled_from([2, 2, 1, 3]),
    arrivals=st.integers(1, 6).flatmap(
        lambda n: st.lists(arrivals, min_size=n, max_size=n).map(tuple)
    ),
)


class StepClock(SchedulerMonitor):
    """Time in published steps; it jumps ahead when no further step would come."""

    def __init__(self) -> None:
        self.now = 0
        self.changed = Wakeup()

    def published(self, step: int, now_s: float) -> None:
        """Count."""
        self.now += 1
        self.changed.set()

    async def reach(self, at: int, engine: Engine) -> None:
        """Sleep until ``at`` steps are published, or nothing is left to do."""
        while self.now < at and not engine.pipeline.is_empty.is_set():
            await self.changed.wait()


class Client:
    """Submits one request, reads it, and gives it up if the trace says so."""

    def __init__(self, engine: Engine, clock: StepClock, arrival: Arrival) -> None:
        self.request = engine.submit(arrival.prompt, arrival.params)
        self.read = bytearray()
        self.is_complete = False
        self._engine = engine
        self._clock = clock
        self._abort = arrival.abort
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async with aclosing(self._engine.stream(self.request)) as tokens:
                async for token in tokens:
                    self.read.append(token)
                    if self._leaves():
                        return
            self.is_complete = True
        except RequestAbortedError:
            assert self.request.finish is FinishReason.ABORTED
        finally:
            self._clock.changed.set()

    def _leaves(self) -> bool:
        abort = self._abort
        return abort is not None and abort.how == "leave" and len(self.read) > abort.after

    def give_up(self) -> None:
        """End the request from outside, unless the reader does it."""
        assert self._abort is not None
        if self._abort.how == "abort":
            self._engine.abort(self.request)
        elif self._abort.how == "cancel":
            self._task.cancel()

    async def ended(self) -> None:
        """Wait for the reader, and see that it got what was written."""
        with suppress(asyncio.CancelledError):
            await self._task
        request = self.request
        assert request.finish is not None
        assert request.output.startswith(self.read)
        if self.is_complete:
            assert self.read == request.output
            assert request.finish not in (FinishReason.ABORTED, FinishReason.ERROR)


def agenda(trace: Trace) -> list[tuple[int, int, bool]]:
    """List when which request comes (False) and is given up (True)."""
    events = [(arrival.at, number, False) for number, arrival in enumerate(trace.arrivals)]
    for number, arrival in enumerate(trace.arrivals):
        if arrival.abort is not None:
            events.append((arrival.at + arrival.abort.after, number, True))
    return sorted(events)


async def drive(trace: Trace, engine: Engine, clock: StepClock) -> list[Client]:
    """Let every request come, and be given up, at its time."""
    clients: dict[int, Client] = {}
    for at, number, is_abort in agenda(trace):
        await clock.reach(at, engine)
        for _ in range(trace.arrivals[number].turns):
            await asyncio.sleep(0)
        if is_abort:
            clients[number].give_up()
        else:
            clients[number] = Client(engine, clock, trace.arrivals[number])
    return [clients[number] for number in range(len(trace.arrivals))]


async def play(trace: Trace, *, overlap: bool) -> list[Request]:
    """Run a trace through one schedule; return the requests as they ended."""
    clock = StepClock()
    async with running(
        MODEL,
        max_running=trace.max_running,
        overlap=overlap,
        depth=trace.depth,
        strict=True,
        monitors=(clock,),
    ) as engine:
        clients = await drive(trace, engine, clock)
        await engine.drained()
        assert_at_rest(engine)
        for client in clients:
            await client.ended()
    return [client.request for client in clients]


@given(traces)
@settings(
    max_examples=100,  # on each of two event loops
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
async def test_random_traces_give_the_same_texts_overlapped_and_sequentially(trace: Trace) -> None:
    """Each request ends once and rightly; aborted ones have a beginning of their text."""
    overlapped = await play(trace, overlap=True)
    sequential = await play(trace, overlap=False)
    for arrival, one, other in zip(trace.arrivals, overlapped, sequential, strict=True):
        if arrival.abort is None:
            assert (one.output, one.finish) == (other.output, other.finish)
        shorter, longer = sorted((one.output, other.output), key=len)
        assert longer.startswith(shorter)
        assert_ended_in_time(one)
        assert_ended_in_time(other)
        assert_right(MODEL, max(one, other, key=lambda request: len(request.output)))
