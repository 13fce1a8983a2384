"""The stages: what a step's table says, what it claims, and whose error a failure is."""

from typing import Any

import pytest
import torch

from aio_sched.engine import pipeline
from aio_sched.engine.admission import Chunk, Limits, plan_step
from aio_sched.engine.errors import RequestFailedError
from aio_sched.engine.requests import FinishReason, Request, SamplingParams
from aio_sched.engine.table import StepTable, decode_rows, prefill_rows
from buffers.slots import SlotAllocator
from buffers.staging import StagingRing
from streams.errors import DeadlineError
from tests.aio_sched.engine.tiny import (
    LETTERS,
    Hold,
    assert_at_rest,
    assert_right,
    read,
    rigged,
    running,
)
from tests.aio_sched.pipelines import until

both = pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "sequential"])

LIMITS = Limits(max_running=4, prefill_rows=3, chunk=5)
PROMPT = LETTERS[:3]


def requests(*all_params: SamplingParams, prompt: bytes = b"abcdefg") -> list[Request]:
    """Make requests that have the slots 1, 2, ..."""
    slots = SlotAllocator(LIMITS.max_running)
    return [
        Request(number, prompt, params, slots.take()) for number, params in enumerate(all_params)
    ]


# Tables ---------------------------------------------------------------------------------


def test_prefill_table_says_what_each_row_reads() -> None:
    """Chunks, positions and slots by row; only a last chunk's token is stashed; rows are padded."""
    first, second = requests(SamplingParams(), SamplingParams(temperature=0.1, seed=-9))
    chunks = [Chunk(first, 0, 5, False), Chunk(second, 5, 2, True)]
    table = StepTable(prefill_rows(chunks, LIMITS))
    assert bytes(table.tokens.flatten().tolist()) == b"abcde" + b"fg\0\0\0" + 5 * b"\0"
    assert table.slots.tolist() == [1, 2, 0]
    assert table.starts.tolist() == [0, 5, 0]
    assert table.lengths.tolist() == [5, 2, 0]
    assert table.stash_slots.tolist() == [0, 2, 0]
    assert table.seeds.tolist() == [0, -9, 0]
    assert torch.equal(table.temperatures, torch.tensor([0.0, 0.1, 0.0]))


def test_decode_table_says_where_each_token_stands() -> None:
    """The first decode reads the token right behind the prompt; the next one the next."""
    first, second = requests(SamplingParams(seed=2**63 - 1), SamplingParams(temperature=100))
    first.num_scheduled, second.num_scheduled = 1, 4
    table = StepTable(decode_rows([first, second], LIMITS))
    assert table.tokens.numel() == 0
    assert table.slots.tolist() == table.stash_slots.tolist() == [1, 2, 0, 0]
    assert table.starts.tolist() == [7, 10, 0, 0]
    assert table.lengths.tolist() == [1, 1, 0, 0]
    assert table.seeds.tolist() == [2**63 - 1, 0, 0, 0]
    assert table.temperatures.tolist() == [0.0, 100.0, 0.0, 0.0]


# On the streams -------------------------------------------------------------------------


@both
async def test_model_runs_behind_the_upload_of_its_table(overlap: bool) -> None:
    """While the schedule stream is held, no step of the model begins.

    Fails if the forward stream does not wait for what prepare has put on the schedule stream.
    """
    model, hold = rigged(), Hold()
    async with running(model, overlap=overlap) as engine:
        schedule_stream, forward_stream, _ = engine.scheduler.turns.streams
        schedule_stream.launch(hold)
        request = engine.submit(PROMPT, SamplingParams(4))
        await until(lambda: engine.scheduler.turns.in_flight)
        with pytest.raises(DeadlineError):
            await forward_stream.drained(timeout=0.05)
        assert model.kinds == []
        hold.release()
        await read(engine, request)
    assert_right(model, request)


@pytest.mark.parametrize("depth", [1, 2, 4])
async def test_staging_has_room_for_all_steps_in_flight(depth: int) -> None:
    """No table fails to find a block, although none of them gets to the device."""
    model, hold = rigged(), Hold()
    async with running(model, depth=depth) as engine:
        turns = engine.scheduler.turns
        request = engine.submit(LETTERS[:1], SamplingParams(20))
        await until(lambda: request.output)
        turns.streams[0].launch(hold)
        held = turns.num_steps
        await until(lambda: turns.num_steps == held + depth)
        assert [launched.error for launched in turns.in_flight] == depth * [None]
        hold.release()
        await read(engine, request)
    assert_right(model, request)


# Failures in prepare --------------------------------------------------------------------


class BrokenRing:
    """A staging ring whose next upload fails."""

    def __init__(self, ring: StagingRing) -> None:
        self.ring = ring
        self.error: Exception | None = None

    def upload(self, *args: Any) -> Any:
        """Fail once, if told to."""
        error, self.error = self.error, None
        if error is not None:
            raise error
        return self.ring.upload(*args)


async def test_failed_upload_fails_its_own_requests_only() -> None:
    """A newcomer's table cannot be uploaded; who was planned before and after it goes on.

    The failed step is published behind those that are on the device, and by then later steps have
    been planned.
    """
    model = rigged()
    hold = model.hold(0)
    async with running(model, max_running=3, depth=4) as engine:
        in_flight = engine.scheduler.turns.in_flight
        ring: Any = BrokenRing(engine.pipeline._prefill_staging)
        engine.pipeline._prefill_staging = ring
        before = engine.submit(PROMPT, SamplingParams(2))
        await until(lambda: len(in_flight) == 2)
        ring.error = OSError("no page-locked memory")
        broken = engine.submit(PROMPT, SamplingParams(5))
        await until(lambda: len(in_flight) == 3)
        after = engine.submit(PROMPT, SamplingParams(5))
        await until(lambda: len(in_flight) == 4)
        hold.release()
        with pytest.raises(RequestFailedError, match="no page-locked memory") as caught:
            await read(engine, broken)
        assert isinstance(caught.value.__cause__, OSError)
        await read(engine, before)
        await read(engine, after)
        await engine.drained()
        assert_at_rest(engine)
    assert before.finish is after.finish is FinishReason.LENGTH
    assert_right(model, before)
    assert_right(model, after)


async def test_failure_that_no_request_caused_is_logged_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in the policy, before anything was planned, ends no request; it is in the log."""
    faults: list[Exception] = [KeyError("a bug in the policy")]

    def plan(*args: Any, **how: Any) -> Any:
        if faults:
            raise faults.pop()
        return plan_step(*args, **how)

    monkeypatch.setattr(pipeline, "plan_step", plan)
    model = rigged()
    async with running(model) as engine:
        request = engine.submit(PROMPT, SamplingParams(4))
        await read(engine, request)
        await engine.drained()
        assert_at_rest(engine)
    assert "step_failed" in caplog.text
    assert "a bug in the policy" in caplog.text
    assert_right(model, request)
