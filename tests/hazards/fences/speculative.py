"""The fences of speculative decoding, and the programs that need them."""

from typing import Any

from aio_sched.engine.requests import SamplingParams
from aio_sched.speculative.gate import PlanGate
from aio_sched.stages import Step
from aio_sched.testing import Trial
from streams.event import Event
from streams.stream import Stream
from tests.aio_sched.speculative.tiny import MuteDrafter, draft_model, engine_on
from tests.hazards.fences.core import FILL_ENDS, HOST_MEMORY
from tests.hazards.fences.entry import Fence

__all__ = [
    "FENCES",
    "LateGate",
    "engine_behind_the_whole_draft",
    "engine_that_posts_late",
    "engine_with_a_targeted_event",
    "engine_with_host_lengths",
]


async def engine_with_a_targeted_event(trial: Trial) -> Any:
    """Plan while the draft still runs, on a host that does not wait for lengths either."""
    return await _served(trial, host_lengths="none")


async def engine_behind_the_whole_draft(trial: Trial) -> Any:
    """Plan for a drafter that reads the shared cells as long as it drafts."""
    return await _served(trial, host_lengths="none", draft=MuteDrafter(draft_model()))


async def engine_with_host_lengths(trial: Trial) -> Any:
    """Pull the lengths to the host as soon as they are published."""
    return await _served(trial)


class LateGate(PlanGate):
    """Gets each event when the plan that was to wait for it is enqueued; the next one finds it."""

    def post(self, step: Step, event: Event) -> None:
        """Hold it back."""
        self._held = step, event

    def enter(self, step: Step, plan_stream: Stream) -> None:
        """Enter, and only then post."""
        super().enter(step, plan_stream)
        super().post(*self._held)


async def engine_that_posts_late(trial: Trial) -> Any:
    """Leave the event of each step in the mailbox for the next one."""
    return await _served(trial, host_lengths="none", posts_late=True)


async def _served(trial: Trial, *, posts_late: bool = False, **options: Any) -> Any:
    engine = engine_on(trial.device, overlap=trial.overlap, num_draft=2, **options)
    if posts_late:
        engine.pipeline._gate = LateGate()
    async with engine:
        return await engine.complete(bytes([1, 2, 3]), SamplingParams(max_tokens=6))


FENCES = (
    Fence(
        "aio_sched/speculative/gate.py",
        "PlanGate.enter",
        "RAW: the plan reads lengths that the accept of the step before",
        engine_with_a_targeted_event,
        ("RAW", "relay.lengths"),
    ),
    Fence(
        "aio_sched/speculative/gate.py",
        "PlanGate.enter",
        "WAR: the plan rewrites the cells that this step's draft claims",
        engine_with_a_targeted_event,
        ("WAR", "verify.cells"),
    ),
    Fence(
        "aio_sched/speculative/gate.py",
        "PlanGate.enter",
        "WAR: without an event, the plan rewrites cells",
        engine_behind_the_whole_draft,
        ("WAR", "verify.cells"),
    ),
    Fence(
        "aio_sched/speculative/gate.py",
        "PlanGate._take",
        "WAR: behind an earlier step's event",
        engine_that_posts_late,
        ("WAR", "verify.cells"),
    ),
    Fence(
        "aio_sched/speculative/pipeline.py",
        "SpeculativePipeline._plan_verify",
        "RAW: the verify reads cells, mask and noise",
        engine_with_a_targeted_event,
        ("RAW", "verify.cells"),
    ),
    Fence(
        "aio_sched/speculative/device_work.py",
        "DeviceWork.__init__",
        "RAW: steps read the zeros of both caches",
        engine_with_host_lengths,
        ("RAW", "cache.keys"),
        FILL_ENDS,
        redundant=HOST_MEMORY,
        covered_by="launch",
    ),
)
