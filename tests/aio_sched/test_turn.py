"""One turn of the loop: what surrounds each stage."""

from typing import Any

from structlog.contextvars import bound_contextvars, get_contextvars

from aio_sched.loop import OverlapScheduler
from aio_sched.stages import HostCopy, Step
from streams.device import open_device
from tests.aio_sched.pipelines import Doubler


class Noting(Doubler):
    """Notes what structlog would add to a log event of each stage."""

    def __init__(self, items: list[int]) -> None:
        super().__init__(items)
        self.bound: list[dict[str, Any]] = []

    async def prepare(self, step: Step) -> int | None:
        """Note, then take the next number."""
        if self.inbox:
            self.bound.append(get_contextvars())
        return await super().prepare(step)

    async def forward(self, step: Step, inputs: int) -> HostCopy:
        """Note, then double it."""
        self.bound.append(get_contextvars())
        return await super().forward(step, inputs)

    async def publish(self, step: Step, inputs: int, output: HostCopy) -> None:
        """Deliver it, then note: another step's stages have run meanwhile."""
        await output
        self.bound.append(get_contextvars())
        await super().publish(step, inputs, output)


async def test_log_events_of_a_stage_carry_its_step_and_stage() -> None:
    """Any structlog logger that merges context variables says which stage of which step it is."""
    pipeline = Noting([1, 2, 3])
    with open_device("cpu") as device:
        async with OverlapScheduler(pipeline, device):
            await pipeline.all_ended.wait()
    stages = [(step, stage) for step in range(3) for stage in ("prepare", "forward", "publish")]
    assert sorted((bound["step"], bound["stage"]) for bound in pipeline.bound) == sorted(stages)


async def test_what_the_application_bound_stays_and_nothing_is_left_behind() -> None:
    """A stage adds to the application's own context, and takes away what it added."""
    pipeline = Noting([1])
    with bound_contextvars(tenant="a"), open_device("cpu") as device:
        async with OverlapScheduler(pipeline, device):
            await pipeline.all_ended.wait()
        assert get_contextvars() == {"tenant": "a"}
    assert [bound["tenant"] for bound in pipeline.bound] == ["a", "a", "a"]


class Refusing(Noting):
    """Publishes nothing, and notes what is bound when it is told of the failure."""

    async def publish(self, step: Step, inputs: int, output: HostCopy) -> None:
        """Fail, as a service does whose client is gone."""
        await output
        raise ConnectionError("nobody there")

    def failed(self, step: Step, inputs: int | None, error: BaseException) -> None:
        """Note, then count."""
        self.bound.append(get_contextvars())
        super().failed(step, inputs, error)


async def test_nothing_is_bound_after_a_stage_that_failed() -> None:
    """A stage that raises takes its step and its name away from the log, too."""
    pipeline = Refusing([1])
    with open_device("cpu") as device:
        async with OverlapScheduler(pipeline, device):
            await pipeline.all_ended.wait()
    assert pipeline.bound[-1] == {}
