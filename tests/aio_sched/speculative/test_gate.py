"""The mailbox between a draft and the plan of the same step, by when a plan starts."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from aio_sched.speculative.errors import StalePlanEventError
from aio_sched.speculative.gate import PlanGate
from aio_sched.speculative.policies import HostLengths, PlanPolicy
from aio_sched.testing import virtual_run
from streams.device import open_device
from tests.streams.simulated.tools import Spans

Play = Callable[[PlanGate, Any, Any], object]


def planned(gate: PlanGate, play: Play) -> dict[str, tuple[int, int]]:
    """Claim and draft on one stream, plan on another; return start and end of each launch, in us.

    Args:
        gate: between the two.
        play: posts what it likes, given the gate, the step and the event behind the claim.
    """

    async def run() -> dict[str, tuple[int, int]]:
        with open_device("sim", profile="friendly") as device, Spans().watch(device) as spans:
            forward, plan_stream = device.stream("forward"), device.stream("plan")
            step: Any = SimpleNamespace(index=7, forward_stream=forward)
            forward.launch(claim)
            event = forward.record("draft_cells_read")
            forward.launch(draft)
            play(gate, step, event)
            gate.enter(step, plan_stream)
            await plan_stream.launch(plan)
            await forward.drained()
            return spans.times_us

    return virtual_run(run())


def claim() -> None:
    """Stand for what a draft does with shared memory."""


def draft() -> None:
    """Stand for the rest of it."""


def plan() -> None:
    """Stand for a plan."""


def test_plan_starts_behind_the_event_of_its_step() -> None:
    """And while the draft still runs."""
    spans = planned(PlanGate(), lambda gate, step, event: gate.post(step, event))
    assert spans["plan"][0] == spans["claim"][1] == spans["draft"][0]


def test_plan_without_an_event_starts_behind_the_whole_draft() -> None:
    """What was not said to be over may go on to the end."""
    gate = PlanGate()
    spans = planned(gate, lambda gate, step, event: None)
    assert spans["plan"][0] == spans["draft"][1]
    assert gate.num_refused == 0


def post_for_another_step(gate: PlanGate, step: Any, event: Any) -> None:
    """Leave what a step that broke off behind its draft leaves."""
    gate.post(SimpleNamespace(index=step.index - 1), event)  # type: ignore[arg-type]  # like one


def test_event_of_an_earlier_step_is_refused() -> None:
    """The plan starts as if there were none, and the refusal is counted."""
    gate = PlanGate()
    spans = planned(gate, post_for_another_step)
    assert spans["plan"][0] == spans["draft"][1]
    assert gate.num_refused == 1


def test_event_of_an_earlier_step_is_an_error_in_strict_mode() -> None:
    """It names both steps and the event."""
    message = r"the plan of step 7 found <Event 'draft_cells_read'.*>, which step 6 posted"
    with pytest.raises(StalePlanEventError, match=message):
        planned(PlanGate(strict=True), post_for_another_step)


def test_event_is_taken_once() -> None:
    """A second plan of the same step finds an empty mailbox and waits for all of the draft."""

    def post_and_take(gate: PlanGate, step: Any, event: Any) -> None:
        gate.post(step, event)
        gate.enter(step, step.forward_stream.device.stream("other"))

    spans = planned(PlanGate(), post_and_take)
    assert spans["plan"][0] == spans["draft"][1]


@pytest.mark.parametrize("kind", [PlanPolicy, HostLengths])
def test_unknown_policy_is_refused(kind: type[PlanPolicy] | type[HostLengths]) -> None:
    """With the argument, the value, and what there is."""
    with pytest.raises(ValueError, match=r"some='sometimes' is unknown; use one of '\w+', '\w+'"):
        kind.named("sometimes", "some")
