"""What breaks on the device fails the requests of its step, and nobody else."""

import pytest

from aio_sched.engine.engine import Engine
from aio_sched.engine.errors import RequestFailedError
from aio_sched.engine.requests import FinishReason, Request, SamplingParams
from aio_sched.errors import SchedulerClosedError
from streams.device import open_device
from streams.errors import DeadlineError, DeviceLostError
from tests.aio_sched.engine.tiny import (
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


async def assert_failed(engine: Engine, request: Request, cause: type[BaseException]) -> None:
    """Read to the end, which is a failure."""
    with pytest.raises(RequestFailedError, match=f"request {request.id} failed after") as caught:
        await read(engine, request)
    assert isinstance(caught.value.__cause__, cause)


@both
@pytest.mark.parametrize("step", [0, 1, 3])
async def test_failing_step_fails_its_own_requests_only(overlap: bool, step: int) -> None:
    """Two run, two wait; the two end with the error, the others are served as if nothing was."""
    model = rigged()
    model.fail(step, ZeroDivisionError("in the model"))
    async with running(model, overlap=overlap) as engine:
        requests = [engine.submit(LETTERS[i : i + 2], SamplingParams(6)) for i in range(4)]
        for request in requests[:2]:
            await assert_failed(engine, request, ZeroDivisionError)
            assert len(request.output) == step
        for request in requests[2:]:
            assert len(await read(engine, request)) == 6
        late = engine.submit(PROMPT, SamplingParams(6))
        await read(engine, late)
        await engine.drained()
        assert_at_rest(engine)
        assert engine.scheduler.turns.num_failed == 1
    for request in (*requests, late):
        assert_right(model, request)


@both
async def test_failing_prefill_spares_those_who_decode(overlap: bool) -> None:
    """A newcomer's prompt fails; the text of the one that runs already goes on, unchanged."""
    model = rigged()
    hold = model.hold(3)
    async with running(model, overlap=overlap) as engine:
        old = engine.submit(PROMPT, SamplingParams(20))
        await until(hold.started.is_set)
        new = engine.submit(PROMPT, SamplingParams(5))
        model.fail_next("prefill", MemoryError("no room for the prompt"))
        hold.release()
        await assert_failed(engine, new, MemoryError)
        assert old.finish is None
        await read(engine, old)
        await engine.drained()
        assert_at_rest(engine)
    assert new.output == b""
    assert_right(model, old)


@both
async def test_lost_device_fails_all_readers(overlap: bool) -> None:
    """Who runs and who waits gets the fault; new requests are refused; the block raises it."""
    model = rigged()
    hold = model.hold(3)
    with open_device("cpu") as device, pytest.raises(DeviceLostError, match="caught fire"):
        async with Engine(model, device, max_running=2, overlap=overlap) as engine:
            requests = [engine.submit(PROMPT, SamplingParams(30)) for _ in range(3)]
            await until(hold.started.is_set)
            device.lose(RuntimeError("it caught fire"))
            hold.release()
            for request in requests:
                await assert_failed(engine, request, DeviceLostError)
            await engine.drained()
            with pytest.raises(SchedulerClosedError, match="caught fire"):
                engine.submit(PROMPT, SamplingParams(30))
    assert_ended(engine, requests)


@both
async def test_hanging_device_fails_all_readers(overlap: bool) -> None:
    """After ``wait_deadline_s`` nobody waits any more, neither for a token nor for the drain."""
    model = rigged()
    hold = model.hold(3)
    with open_device("cpu") as device:
        engine = Engine(model, device, max_running=2, overlap=overlap, wait_deadline_s=0.05)
        with pytest.raises(DeadlineError, match="_run_decode"):
            async with engine:
                requests = [engine.submit(PROMPT, SamplingParams(30)) for _ in range(3)]
                for request in requests:
                    await assert_failed(engine, request, DeadlineError)
                await engine.drained()
        hold.release()
    assert not engine.pipeline.waiting


def assert_ended(engine: Engine, requests: list[Request]) -> None:
    """Nothing of them is left in the engine."""
    assert {request.finish for request in requests} == {FinishReason.ERROR}
    assert list(engine.pipeline.waiting) == engine.pipeline.running == []
    assert len(engine.scheduler.turns.keep_alive) == 0


@both
async def test_failures_in_a_row_leave_the_engine_usable(overlap: bool) -> None:
    """Every step of four requests in a row fails; the fifth request is served."""
    model = rigged()
    async with running(model, overlap=overlap, max_running=1) as engine:
        for _ in range(4):
            model.fail(len(model.kinds), OSError("again"))
            await assert_failed(engine, engine.submit(PROMPT, SamplingParams(9)), OSError)
            await engine.drained()
        request = engine.submit(PROMPT, SamplingParams(5))
        await read(engine, request)
    assert_right(model, request)
