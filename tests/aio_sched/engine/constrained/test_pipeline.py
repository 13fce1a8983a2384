"""Requests under a constraint: how they end, what they cost, and whose error a failure is."""

import asyncio
from typing import Any

import pytest

from aio_sched.engine.admission import Limits
from aio_sched.engine.engine import Engine
from aio_sched.engine.errors import ConstraintError, RequestFailedError
from aio_sched.engine.pipeline import GenerationPipeline
from aio_sched.engine.requests import FinishReason, SamplingParams
from aio_sched.engine.text_engine import TextEngine
from aio_sched.testing import Fault, FaultKind, Schedule, Trial, run_once
from streams.device import open_device
from streams.launch import Operation
from streams.monitor import DeviceMonitor
from tests.aio_sched.engine.constrained.automata import Climbing, Scripted, Stumbling
from tests.aio_sched.engine.constrained.oracle import written_alone
from tests.aio_sched.engine.tiny import CHUNK, LETTERS, assert_at_rest, read, rigged, running
from tests.aio_sched.pipelines import until
from tests.hazards.shipped.constrained import constrained

both = pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "sequential"])

LIMITS = Limits(2, 2, CHUNK)
PROMPT = LETTERS[:3]
SIZES: dict[str, Any] = {"max_running": 2, "prefill_rows": 2, "chunk": CHUNK}
SCRIPT = b"\4\4\1\7"


async def written(engine: Engine, params: SamplingParams) -> tuple[bytes, FinishReason | None]:
    """Submit a prompt; return the text and why it ended."""
    request = engine.submit(PROMPT, params)
    return await read(engine, request), request.finish


# How a text ends ------------------------------------------------------------------------


@both
async def test_text_that_must_end_ends_without_a_step_for_its_end(overlap: bool) -> None:
    """The four tokens of a script cost a prefill and four decodes; the end is known then."""
    model = rigged()
    async with running(model, overlap=overlap) as engine:
        params = SamplingParams(20, constraint=Scripted(SCRIPT))
        assert await written(engine, params) == (SCRIPT, FinishReason.END_OF_TEXT)
        await engine.drained()
        assert_at_rest(engine)
    assert model.kinds == ["prefill", *["decode"] * 4]


@both
async def test_last_token_that_may_be_asked_for_is_not_read_by_the_model(overlap: bool) -> None:
    """A step that only samples ends the text; it is cut off, and says so."""
    model = rigged()
    async with running(model, overlap=overlap) as engine:
        params = SamplingParams(3, constraint=Scripted(SCRIPT))
        assert await written(engine, params) == (SCRIPT[:3], FinishReason.LENGTH)
    assert engine.scheduler.stats.steps == 4
    assert model.kinds == ["prefill", "decode", "decode"]


async def test_text_complete_with_its_last_token_is_not_called_cut_off() -> None:
    """Whoever parses it may rely on the reason."""
    async with running(rigged()) as engine:
        params = SamplingParams(4, constraint=Scripted(SCRIPT))
        assert await written(engine, params) == (SCRIPT, FinishReason.END_OF_TEXT)


async def test_stop_text_ends_a_constrained_text_as_well() -> None:
    """It comes first, also before the constraint is met."""
    async with running(rigged()) as engine:
        params = SamplingParams(9, stop=b"\4\1", constraint=Scripted(SCRIPT))
        assert await written(engine, params) == (b"\4\4\1", FinishReason.STOP)


async def test_constraint_of_the_empty_text_takes_no_step() -> None:
    """It ends when it is submitted."""
    model = rigged()
    async with running(model) as engine:
        params = SamplingParams(9, constraint=Scripted(b""))
        assert await written(engine, params) == (b"", FinishReason.END_OF_TEXT)
        assert engine.pipeline.is_empty.is_set()
    assert model.kinds == []


@both
async def test_model_may_end_a_text_wherever_the_constraint_lets_it(overlap: bool) -> None:
    """As the plain loop does: some end before they must, none before they may."""
    climb = Climbing(least=1, most=30)
    lengths = set()
    async with running(rigged(), overlap=overlap) as engine:
        for seed in range(8):
            params = SamplingParams(30, temperature=2, seed=seed, constraint=climb)
            text, finish = await written(engine, params)
            assert (text, finish) == written_alone(rigged(), PROMPT, params, LIMITS)
            assert climb.is_met_by(text)
            lengths.add(len(text))
    assert 1 <= min(lengths) < max(lengths) < 30


# Failures -------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("how", ["raise", "dead end", "flags"])
async def test_failing_automaton_fails_its_own_request_only(overlap: bool, how: str) -> None:
    """Its neighbour goes on, the slot is free again, and what it wrote before can be read."""
    model = rigged()
    async with running(model, overlap=overlap) as engine:
        free = SamplingParams(12, temperature=1)
        neighbour = engine.submit(PROMPT, free)
        request = engine.submit(PROMPT, SamplingParams(9, constraint=Stumbling(2, how)))
        got = bytearray()
        with pytest.raises(RequestFailedError) as caught:
            async for token in engine.stream(request):
                got.append(token)
        assert len(got) == 2
        assert isinstance(caught.value.__cause__, ArithmeticError | ConstraintError)
        text = await read(engine, neighbour)
        await engine.drained()
        assert_at_rest(engine)
        assert engine.scheduler.turns.num_failed == 0
    assert (text, neighbour.finish) == written_alone(rigged(), PROMPT, free, LIMITS)


async def test_automaton_that_fails_behind_the_last_token_spoils_nothing() -> None:
    """Nobody needs its answer any more."""
    async with running(rigged()) as engine:
        text, finish = await written(engine, SamplingParams(2, constraint=Stumbling(2)))
        assert len(text) == 2
        assert finish is FinishReason.LENGTH


@pytest.mark.parametrize("how", ["dead end", "flags"])
async def test_constraint_that_no_text_meets_is_refused(how: str) -> None:
    """When it is submitted; nothing is queued."""
    async with running(rigged()) as engine:
        with pytest.raises(ConstraintError, match=r"no text at all|gave 1 flags"):
            engine.submit(PROMPT, SamplingParams(9, constraint=Stumbling(0, how)))
        assert not engine.pipeline.waiting


def test_what_is_no_constraint_is_refused() -> None:
    """The mistake is told where it was made."""
    with pytest.raises(TypeError, match="constraint='a\\+' is a str"):
        SamplingParams(constraint="a+")  # type: ignore[arg-type]  # that is the point


async def test_pipeline_that_knows_no_constraints_refuses_them() -> None:
    """Rather than to write what was not asked for."""
    with open_device("cpu") as device:
        engine = TextEngine(GenerationPipeline(rigged(), device, LIMITS), device)
        async with engine:
            with pytest.raises(ConstraintError, match="GenerationPipeline cannot write"):
                engine.submit(PROMPT, SamplingParams(9, constraint=Climbing()))


@pytest.mark.parametrize("step", [2, 3, 4])
def test_nothing_is_sampled_from_logits_that_a_failed_step_left(step: int) -> None:
    """Nor read by anybody, although the failure is told late and further steps are under way.

    The copy of the step before is slow; it holds up whoever tells of the failure, but neither the
    next sampling nor its way to the host.
    """
    params = SamplingParams(12, temperature=30, constraint=Climbing(12, 12))

    async def scenario(trial: Trial) -> tuple[bytes, bytes]:
        engine = Engine(rigged(), trial.device, overlap=trial.overlap, depth=4, **SIZES)
        async with engine:
            request = engine.submit(PROMPT, params)
            with pytest.raises(RequestFailedError):
                await read(engine, request)
            after = engine.submit(PROMPT, params)
            text = await read(engine, after)
            await engine.drained()
            assert_at_rest(engine)
        return bytes(request.output), text

    slow = Fault(FaultKind.SLOW_COPY, label="host_copy", step=step - 1, factor=1000)
    fault = Fault(FaultKind.LAUNCH_RAISES, label="_run_decode_and_keep", step=step)
    outcome = run_once(scenario, Schedule(0, "friendly", "random", faults=(slow, fault)))
    assert outcome.error is None
    broken_off, text = outcome.result
    assert text == written_alone(rigged(), PROMPT, params, LIMITS).output
    assert len(broken_off) == step
    assert text.startswith(broken_off)


LABELS = ("_sample", "pull_rows", "_run_decode_and_keep", "_run_prefill_and_keep", "stage_copy")


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("seed", range(3))
def test_failing_launch_ends_every_request_once_and_leaves_nothing(label: str, seed: int) -> None:
    """Wherever delayed sampling is struck: some requests fail, the others are as ever."""
    fault = Fault(FaultKind.LAUNCH_RAISES, label=label, nth=1 + seed)
    usual = run_once(constrained, Schedule(overlap=False)).result
    outcome = run_once(constrained, Schedule(seed, "random", "random", faults=(fault,)))
    assert outcome.error is None
    assert outcome.reports == []
    assert outcome.left_behind == []
    struck = [other for one, other in zip(usual, outcome.result, strict=True) if one != other]
    assert struck
    assert all("SimulatedFault" in why or "injected" in why for _, why in struck), struck


# Aborts ---------------------------------------------------------------------------------


@both
async def test_abort_in_flight_frees_the_slot(overlap: bool) -> None:
    """Its sampling and its pull run out; the next one in the slot writes what it should."""
    model = rigged()
    climb = SamplingParams(20, temperature=1, constraint=Climbing(20, 30))
    async with running(model, max_running=1, overlap=overlap) as engine:
        request = engine.submit(PROMPT, climb)
        hold = model.hold(4)
        await until(hold.started.is_set)
        engine.abort(request)
        assert engine.pipeline.num_free_slots == 0
        after = engine.submit(PROMPT, climb)
        hold.release()
        text = await read(engine, after)
        await engine.drained()
        assert_at_rest(engine)
    limits = Limits(1, 2, CHUNK)
    assert (text, after.finish) == written_alone(rigged(), PROMPT, climb, limits)
    assert text.startswith(bytes(request.output))


# What it costs --------------------------------------------------------------------------


class Launches(DeviceMonitor):
    """Counts launches by name."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    def on_launch(self, operation: Operation) -> None:
        """Count."""
        self.labels.append(operation.label)


async def test_steps_without_constraints_have_no_launch_and_no_stream_for_them() -> None:
    """An upload, the model and a copy, each time; the private stream comes with the first mask."""
    launches = Launches()
    with open_device("cpu") as device, launches.watch(device):
        async with Engine(rigged(), device, **SIZES) as engine:
            await read(engine, engine.submit(PROMPT, SamplingParams(4)))
            assert sorted(set(launches.labels)) == [
                "_run_decode",
                "_run_prefill",
                "host_copy",
                "stage_copy",
            ]
            assert len(launches.labels) == 3 * engine.scheduler.stats.steps
            names = [stream.name for stream in device.streams]
            await written(engine, SamplingParams(4, constraint=Climbing()))
            assert [stream.name for stream in device.streams] == [*names, "relay.d2h"]
        assert len(device.streams) == 0


async def test_two_engines_on_a_device_both_take_constraints() -> None:
    """Their private streams have the names of their schedulers."""
    params = SamplingParams(5, constraint=Climbing(5, 5))
    with open_device("cpu") as device:
        async with (
            Engine(rigged(), device, name="a", **SIZES) as one,
            Engine(rigged(), device, name="b", **SIZES) as other,
        ):
            requests = one.submit(PROMPT, params), other.submit(PROMPT, params)
            texts = await asyncio.gather(read(one, requests[0]), read(other, requests[1]))
            names = {stream.name for stream in device.streams}
    assert texts[0] == texts[1] == written_alone(rigged(), PROMPT, params, LIMITS).output
    assert {"a.relay.d2h", "b.relay.d2h"} <= names


async def test_first_token_of_a_constrained_text_comes_before_its_step_ends() -> None:
    """The reader has it while the model of the step that sampled it is still held."""
    model = rigged()
    hold = model.hold(1)
    async with running(model) as engine:
        request = engine.submit(PROMPT, SamplingParams(5, constraint=Climbing(5, 5)))
        tokens = engine.stream(request)
        assert await anext(tokens) in LETTERS
        await until(hold.started.is_set)
        assert engine.scheduler.turns.in_flight
        hold.release()
        await tokens.aclose()
        await engine.drained()
