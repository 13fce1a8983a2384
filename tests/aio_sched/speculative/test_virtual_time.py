"""What overlaps what, in virtual time; every launch of a forward takes 100 us."""

from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from aio_sched.engine.requests import SamplingParams
from aio_sched.testing import virtual_run
from streams.clock import perf_s
from streams.device import open_device
from streams.monitor import Span
from tests.aio_sched.speculative.tiny import MuteDrafter, draft_model, engine_on, read
from tests.streams.simulated.tools import Spans

PARAMS = SamplingParams(max_tokens=16)


class Run(NamedTuple):
    """One text continued.

    Attributes:
        text: what was written.
        makespan_us: how long that took.
        num_useful: verify steps that gave tokens.
        steps: the spans of each verify step, by label.
    """

    text: bytes
    makespan_us: int
    num_useful: int
    steps: list[dict[str, Span]]


def run(**options: Any) -> Run:
    """Continue a text on a simulated device."""

    async def main() -> Run:
        with open_device("sim", profile="friendly") as device, Spans().watch(device) as spans:
            async with engine_on(device, **options) as engine:
                began = perf_s()
                text = await read(engine, engine.submit(b"\1\2\3", PARAMS))
                makespan_us = round((perf_s() - began) * 1e6)
        return Run(text, makespan_us, engine.speculation.rows, verify_steps(spans.spans))

    return virtual_run(main())


def verify_steps(spans: list[Span]) -> list[dict[str, Span]]:
    """Sort spans by step; only steps that verify, and what ran for them beside forward too."""
    steps: dict[int, dict[str, Span]] = {}
    for span in spans:
        if span.tag is not None:
            label = span.label.rpartition(".")[2]
            steps.setdefault(span.tag.step, {})[label] = span
    return [steps[index] for index in sorted(steps) if "verify" in steps[index]]


def test_targeted_event_lets_planning_overlap_the_draft() -> None:
    """In every step the plan starts when the draft does, behind the reads that it must not race."""
    steps = run(plan="targeted").steps
    assert len(steps) > 3
    for step in steps:
        assert step["begin_draft"].end_s == step["plan_verify"].start_s == step["draft"].start_s
        assert step["plan_verify"].end_s <= step["refill"].start_s


@pytest.mark.parametrize(
    "options",
    [{"plan": "whole_draft"}, {"plan": "off"}, {"draft": MuteDrafter(draft_model())}],
    ids=["whole draft", "no plan stream", "no event"],
)
def test_without_the_event_planning_waits_for_the_whole_draft(options: dict[str, Any]) -> None:
    """By choice, or because the drafter does not say when it has read what is shared."""
    for step in run(**options).steps:
        assert step["draft"].end_s == step["plan_verify"].start_s
        assert step["plan_verify"].end_s <= step["refill"].start_s


@pytest.mark.parametrize("host_lengths", ["exact", "none"])
def test_makespan_is_shortest_with_the_targeted_event(host_lengths: str) -> None:
    """By the plan of each step; the same text comes of all."""
    targeted, whole, off = (
        run(plan=plan, host_lengths=host_lengths) for plan in ("targeted", "whole_draft", "off")
    )
    assert targeted.text == whole.text == off.text
    assert targeted.makespan_us < whole.makespan_us
    assert whole.makespan_us - targeted.makespan_us == 100 * targeted.num_useful
    assert targeted.makespan_us < off.makespan_us


def test_host_has_the_lengths_when_they_are_published_not_when_forward_ends() -> None:
    """The pull of the next step runs beside the drafter's catching up, and ends before it."""
    steps = run(host_lengths="exact").steps
    assert len(steps) > 3
    for step, following in pairwise(steps):
        published, caught_up = step["accept"], step["extend_draft"]
        pulled = following["pull_rows"]
        assert published.end_s <= pulled.start_s
        assert pulled.end_s < caught_up.end_s


def test_next_step_is_planned_on_the_host_before_forward_ends() -> None:
    """So the table of the next step is on the device when the catching up ends."""
    steps = run(host_lengths="exact").steps
    for step, following in pairwise(steps):
        assert following["stage_copy"].end_s < step["extend_draft"].end_s
