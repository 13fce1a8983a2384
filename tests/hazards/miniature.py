"""What a miniature is, and a pipeline for them to build on."""

import asyncio
import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Unpack

from aio_sched.config import SchedulerOptions
from aio_sched.stages import Pipeline, Step
from aio_sched.testing import Trial
from streams.device import Device

__all__ = ["NUM_STEPS", "FoundBy", "Miniature", "Steps", "serve"]

NUM_STEPS = 5


class FoundBy(enum.Enum):
    """What finds a failure; only the first of these says nothing without a checker."""

    ORDER = "the checker: two accesses that nothing orders"
    REFUSAL = "the library: it refuses the call, and tells the checker"
    GUARD = "the guard of a strict scheduler"
    PROGRESS = "the virtual loop: nothing can ever run again"


@dataclass(frozen=True)
class Miniature:
    """One known failure.

    Attributes:
        row: of the catalogue of failures that the design began with: D device, A asyncio, R
            ranks.
        found_by: what finds it.
        finds: the kind of report, or the type of error where there is no report.
        says: pattern of the report's or error's text.
        play: the program; ``is_fixed`` decides about the one line that it is about.
        needs_strict: whether only a checker with a clock per task sees it.
    """

    row: str
    found_by: FoundBy
    finds: str | type[Exception]
    says: str
    play: Callable[[Trial, bool], Awaitable[Any]]
    needs_strict: bool = False

    @property
    def name(self) -> str:
        """The program's name, with the catalogue's row."""
        return f"{self.row}-{self.play.__name__}"

    async def racy(self, trial: Trial) -> Any:
        """Run it with the flaw."""
        return await self.play(trial, False)

    async def fixed(self, trial: Trial) -> Any:
        """Run it without."""
        return await self.play(trial, True)


class Steps(Pipeline[Any, Any]):
    """A few numbered steps; a miniature says what they do on the device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.results: list[Any] = []
        self.errors: list[BaseException] = []
        self.all_ended = asyncio.Event()
        self._left = list(range(1, NUM_STEPS + 1))

    async def prepare(self, step: Step) -> Any:
        """Take the next number."""
        return await self.plan(step, self._left.pop(0)) if self._left else None

    async def plan(self, step: Step, number: int) -> Any:
        """Prepare one step."""
        return number

    async def publish(self, step: Step, inputs: Any, output: Any) -> None:
        """Keep what was computed."""
        self._end((await output).tolist())

    def failed(self, step: Step, inputs: Any, error: BaseException) -> None:
        """Keep why a step failed."""
        self.errors.append(error)
        self._end(None)

    def _end(self, result: Any) -> None:
        self.results.append(result)
        if len(self.results) == NUM_STEPS:
            self.all_ended.set()


async def serve(trial: Trial, pipeline: Steps, **options: Unpack[SchedulerOptions]) -> list[Any]:
    """Run all steps; raise what failed the first one that did."""
    async with trial.scheduler(pipeline, **options):
        await pipeline.all_ended.wait()
    if pipeline.errors:
        raise pipeline.errors[0]
    return pipeline.results
