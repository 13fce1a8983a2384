"""Delayed sampling where the device or its memory lets it down."""

import pytest

from aio_sched.engine.constrained.pipeline import ConstrainedPipeline
from aio_sched.engine.engine import Engine
from aio_sched.engine.errors import RequestFailedError
from aio_sched.engine.requests import SamplingParams
from aio_sched.testing import Fault, FaultKind, Schedule, Trial, run_once
from buffers.errors import StagingBusyError
from streams.errors import DeadlineError
from tests.aio_sched.engine.constrained.automata import Climbing
from tests.aio_sched.engine.tiny import CHUNK, LETTERS, assert_at_rest, read, rigged, running

PROMPT = LETTERS[:3]
PARAMS = SamplingParams(5, constraint=Climbing(5, 5))


async def test_masks_without_room_to_stage_fail_the_requests_of_the_step() -> None:
    """The slot is free again, and the next one is served."""
    async with running(rigged()) as engine:
        assert isinstance(engine.pipeline, ConstrainedPipeline)
        staging = engine.pipeline._delayed._staging
        claimed = [staging.take() for _ in range(staging.num_free)]
        with pytest.raises(RequestFailedError) as caught:
            await read(engine, engine.submit(PROMPT, PARAMS))
        assert isinstance(caught.value.__cause__, StagingBusyError)
        for block in claimed:
            block.give_back()
        assert len(await read(engine, engine.submit(PROMPT, PARAMS))) == 5
        await engine.drained()
        assert_at_rest(engine)


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "sequential"])
def test_tokens_that_never_reach_the_host_end_their_request_in_time(overlap: bool) -> None:
    """Nobody waits longer for them than for any other result of a step."""

    async def scenario(trial: Trial) -> None:
        engine = Engine(
            rigged(),
            trial.device,
            max_running=2,
            chunk=CHUNK,
            overlap=overlap,
            wait_deadline_s=3.0,
            stop_deadline_s=1.0,
        )
        with pytest.raises(DeadlineError, match="pull_rows"):
            async with engine:
                with pytest.raises(RequestFailedError):
                    await read(engine, engine.submit(PROMPT, PARAMS))

    fault = Fault(FaultKind.LAUNCH_HANGS, label="pull_rows", nth=1)
    outcome = run_once(scenario, Schedule(0, "friendly", "random", faults=(fault,)))
    assert outcome.error is None
    assert outcome.struck_s
    assert outcome.makespan_s < 5.0
