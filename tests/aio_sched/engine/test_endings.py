"""Requests that end early: aborted, abandoned by their readers, overtaken by the engine's end."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import anyio
import pytest

from aio_sched.engine.engine import Engine
from aio_sched.engine.errors import RequestAbortedError
from aio_sched.engine.requests import FinishReason, Request, SamplingParams
from aio_sched.errors import SchedulerClosedError, StepAbortedError
from aio_sched.loop import OverlapScheduler
from tests.aio_sched.engine.tiny import (
    CHUNK,
    LETTERS,
    assert_at_rest,
    assert_right,
    read,
    rigged,
    running,
)
from tests.aio_sched.pipelines import until

both = pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "sequential"])

PROMPT = LETTERS[:3]
LONG = SamplingParams(max_tokens=40)


async def assert_aborted(engine: Engine, request: Request) -> BaseException | None:
    """Read what was published, and the end; return its cause."""
    tokens = bytearray()
    message = f"aborted after {len(request.output)} tokens"
    with pytest.raises(RequestAbortedError, match=message) as caught:
        async for token in engine.stream(request):
            tokens.append(token)
    assert request.output.endswith(tokens)
    return caught.value.__cause__


async def num_launched(engine: Engine) -> int:
    """Let the engine launch what it may beside a held step; return the steps until then."""
    turns = engine.scheduler.turns
    num_beside = turns.config.depth if isinstance(engine.scheduler, OverlapScheduler) else 1
    await until(lambda: len(turns.in_flight) == num_beside)
    return turns.num_steps


# Aborts ---------------------------------------------------------------------------------


@both
async def test_abort_before_the_first_step_costs_nothing(overlap: bool) -> None:
    """It never gets a slot, and no step runs for it."""
    model = rigged()
    async with running(model, overlap=overlap) as engine:
        request = engine.submit(PROMPT, LONG)
        engine.abort(request)
        assert_at_rest(engine)
        assert await assert_aborted(engine, request) is None
        await engine.drained()
    assert model.kinds == []


@both
async def test_abort_while_waiting_leaves_the_queue(overlap: bool) -> None:
    """The others keep their order."""
    model = rigged()
    hold = model.hold(0)
    async with running(model, overlap=overlap, max_running=1) as engine:
        first, second, third = (engine.submit(PROMPT, SamplingParams(3)) for _ in range(3))
        await until(hold.started.is_set)
        assert list(engine.pipeline.waiting) == [second, third]
        engine.abort(second)
        assert list(engine.pipeline.waiting) == [third]
        hold.release()
        assert await read(engine, first) == await read(engine, third) != b""
        await assert_aborted(engine, second)
        assert_at_rest(engine)


@both
@pytest.mark.parametrize("held", [0, 1, 4, 6], ids="step {}".format)
async def test_abort_runs_no_step_beyond_those_in_flight(overlap: bool, held: int) -> None:
    """In the middle of a prompt of four chunks, or of its text: the slot comes back with them."""
    model = rigged()
    hold = model.hold(held)
    num_before = max(0, held - 3)  # the fourth chunk gives the first token
    async with running(model, overlap=overlap) as engine:
        request = engine.submit(LETTERS[:8] + LETTERS[:8], LONG)
        await until(hold.started.is_set)
        await until(lambda: len(request.output) == num_before)
        num_steps = await num_launched(engine)
        engine.abort(request)
        engine.abort(request)  # no harm
        hold.release()
        await engine.drained()
        assert_at_rest(engine)
        assert len(model.kinds) == num_steps
        await assert_aborted(engine, request)
    assert len(request.output) == num_before
    assert_right(model, request)


@both
async def test_slot_of_an_aborted_request_waits_for_the_device(overlap: bool) -> None:
    """A step that uses the slot is on the device, so nobody else gets it; then the next one does.

    Fails if ``Step.when_done`` calls back before the step has left the device.
    """
    model = rigged()
    hold = model.hold(2)
    async with running(model, overlap=overlap, max_running=1) as engine:
        old, new = engine.submit(PROMPT, LONG), engine.submit(PROMPT, SamplingParams(5))
        await until(hold.started.is_set)
        await num_launched(engine)
        slot = old.slot
        engine.abort(old)
        for _ in range(20):
            engine.scheduler.wake()
            await asyncio.sleep(0)
        assert engine.pipeline.num_free_slots == 0
        assert (old.slot, new.slot) == (slot, None)
        hold.release()
        await read(engine, new)
        assert old.slot is None
    assert_right(model, new)


async def test_abort_after_the_end_changes_nothing() -> None:
    """A complete request stays complete."""
    async with running(rigged()) as engine:
        request = engine.submit(PROMPT, SamplingParams(3))
        await engine.drained()
        engine.abort(request)
        assert request.finish is FinishReason.LENGTH
        assert len(await read(engine, request)) == 3


# Readers that go away -------------------------------------------------------------------


async def leave(engine: Engine, request: Request) -> None:
    """Take two tokens and close the generator."""
    async with aclosing(engine.stream(request)) as tokens:
        await anext(tokens)
        await anext(tokens)


async def leave_by_break(engine: Engine, request: Request) -> None:
    """Take a token and let the garbage collector close the generator."""
    async for _ in engine.stream(request):
        break
    gc.collect()  # for interpreters that do not count references
    await until(lambda: request.finish is not None)


async def cancel_natively(engine: Engine, request: Request) -> None:
    """Cancel a reader that waits for its next token."""
    reader = asyncio.create_task(read(engine, request))
    await until(lambda: len(request.output) >= 2 and not request.unread)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader


async def cancel_by_scope(engine: Engine, request: Request) -> None:
    """Cancel a reader as anyio does."""
    async with anyio.create_task_group() as readers:
        readers.start_soon(read, engine, request)
        await until(lambda: len(request.output) >= 2 and not request.unread)
        readers.cancel_scope.cancel()


async def time_out(engine: Engine, request: Request) -> None:
    """Give up after a time."""
    with anyio.move_on_after(0.01):
        await read(engine, request)


@both
@pytest.mark.parametrize(
    "go_away", [leave, leave_by_break, cancel_natively, cancel_by_scope, time_out]
)
async def test_reader_that_goes_away_frees_the_slot(
    overlap: bool, go_away: Callable[[Engine, Request], Awaitable[None]]
) -> None:
    """Its request is aborted; once the steps in flight are done the next one has the slot."""
    model = rigged()
    hold = model.hold(10)
    async with running(model, overlap=overlap, max_running=1) as engine:
        request, waiting = engine.submit(PROMPT, LONG), engine.submit(PROMPT, SamplingParams(5))
        await go_away(engine, request)
        assert request.finish is FinishReason.ABORTED
        hold.release()
        await read(engine, waiting)
        await engine.drained()
        assert_at_rest(engine)
    assert len(request.output) < LONG.max_tokens
    assert_right(model, waiting)


async def test_generate_that_is_closed_aborts_at_once() -> None:
    """Closing the outer generator closes the inner one; nothing is left to the collector."""
    async with running(rigged(), max_running=1) as engine:
        async with aclosing(engine.generate(PROMPT, LONG)) as tokens:
            await anext(tokens)
            [request] = engine.pipeline.running
        assert request.finish is FinishReason.ABORTED


async def test_generator_that_nobody_iterates_does_no_harm() -> None:
    """``generate`` has submitted nothing; a submitted request runs to its end unread."""
    async with running(rigged()) as engine:
        tokens = engine.generate(PROMPT)
        await tokens.aclose()
        assert_at_rest(engine)
        request = engine.submit(PROMPT, SamplingParams(4))
        await engine.stream(request).aclose()
        await engine.drained()
        assert request.finish is FinishReason.LENGTH
        assert_at_rest(engine)


# The engine's end -----------------------------------------------------------------------


@both
async def test_end_of_the_block_aborts_what_runs_and_what_waits(overlap: bool) -> None:
    """What is in flight is published; then every reader is told, and none hangs."""
    model = rigged()
    async with running(model, overlap=overlap, max_running=2) as engine:
        requests = [engine.submit(LETTERS[:i], LONG) for i in (1, 2, 3 * CHUNK)]
        readers = [asyncio.create_task(read(engine, request)) for request in requests]
        await until(lambda: requests[0].output)
    assert_at_rest(engine)
    for reader, request in zip(readers, requests, strict=True):
        with pytest.raises(RequestAbortedError, match="the engine stopped before") as caught:
            await reader
        assert isinstance(caught.value.__cause__, SchedulerClosedError)
        assert_right(model, request)


@both
async def test_error_in_the_block_aborts_everything(overlap: bool) -> None:
    """Requests on the device, between steps and in the queue end alike; the error gets out."""
    model = rigged()
    hold = model.hold(3)
    with pytest.raises(KeyError, match="the user's"):
        async with running(model, overlap=overlap, max_running=2) as engine:
            requests = [engine.submit(LETTERS[:i], LONG) for i in (1, 2, 3)]
            readers = [asyncio.create_task(read(engine, request)) for request in requests]
            await until(hold.started.is_set)
            asyncio.get_running_loop().call_soon(hold.release)
            raise KeyError("the user's")
    assert_at_rest(engine)
    for reader in readers:
        with pytest.raises(RequestAbortedError) as caught:
            await reader
        assert isinstance(caught.value.__cause__, StepAbortedError | SchedulerClosedError)
    assert {request.finish for request in requests} == {FinishReason.ABORTED}


@both
async def test_error_before_anything_began_leaves_nothing(overlap: bool) -> None:
    """A block that fails at once ends its request all the same."""
    with pytest.raises(KeyError):
        async with running(rigged(), overlap=overlap) as engine:
            request = engine.submit(PROMPT, LONG)
            raise KeyError
    assert_at_rest(engine)
    assert isinstance(await assert_aborted(engine, request), SchedulerClosedError)


@both
async def test_cancelled_owner_aborts_everything(overlap: bool) -> None:
    """Readers and those who wait for the drain outlive the engine's task and are told."""
    model = rigged()
    engines: asyncio.Queue[Engine] = asyncio.Queue()

    async def own() -> None:
        async with running(model, overlap=overlap, max_running=1) as engine:
            await engines.put(engine)
            await asyncio.get_running_loop().create_future()

    owner = asyncio.create_task(own())
    engine = await engines.get()
    requests = [engine.submit(PROMPT, LONG) for _ in range(3)]
    drained = asyncio.create_task(engine.drained())
    await until(lambda: requests[0].output)
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner
    await drained
    assert_at_rest(engine)
    for request in requests:
        assert await assert_aborted(engine, request) is not None
