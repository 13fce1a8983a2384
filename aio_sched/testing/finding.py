"""What an exploration found: in words, as a command that replays it, as a picture."""

import sys
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from textwrap import shorten

from aio_sched.testing.outcome import Outcome
from aio_sched.testing.schedule import Schedule
from aio_sched.testing.trial import Scenario
from streams.errors import AioSchedError
from streams.hazards import Report
from streams.simulated import SimProfile

__all__ = ["ExplorationError", "Finding", "name_of"]


@dataclass(frozen=True)
class Finding:
    """What is wrong, and in which run.

    Attributes:
        what: in words, one line each.
        schedule: the run, made as simple as it could be.
        outcome: what happened in it.
        reports: of the hazard checker.
        scenario: its name, as ``module:function`` where it has one.
        num_shrinks: runs that it took to make it simpler.
    """

    what: tuple[str, ...]
    schedule: Schedule
    outcome: Outcome
    reports: tuple[Report, ...]
    scenario: str
    num_shrinks: int = 0

    @property
    def replay(self) -> str:
        """The command that makes the run again; an expression where no command can."""
        if "<" in self.scenario or isinstance(self.schedule.profile, SimProfile):
            return f"run_once(scenario, {self.schedule!r})"
        return f"aio-sched explore {self.scenario} {self.schedule.arguments()}"

    @property
    def title(self) -> str:
        """What is wrong, short enough for a heading: who did what to what, without lines."""
        if not self.reports or self.reports[0].later is None:
            return shorten(self.what[0], 100)
        report = self.reports[0]
        parties = [party for party in (report.later, report.earlier) if party is not None]
        deeds = (f"{p.stage or p.label} {'writes' if p.is_write else 'reads'}" for p in parties)
        return f"{report.kind} on {report.where}: {', '.join(deeds)}"

    def picture(self, path: str | PathLike[str]) -> None:
        """Write an SVG picture of the run: the steps around what was found.

        Raises:
            ValueError: no step of a scheduler was recorded.
            OSError: the file cannot be written.
        """
        if self.outcome.recorder is None:
            raise ValueError(f"the run of {self.scenario} ended before anything was recorded")
        parties = [p for report in self.reports[:1] for p in (report.later, report.earlier)]
        steps = [party.stage.step for party in parties if party and party.stage]
        around = (max(0, min(steps) - 1), max(steps) + 2) if steps else None
        self.outcome.recorder.picture(path, steps=around, title=self.title)

    def __str__(self) -> str:
        return "\n".join((*self.what, f"replay: {self.replay}"))


class ExplorationError(AioSchedError, AssertionError):
    """A schedule was found under which a scenario goes wrong.

    Attributes:
        finding: what, and which.
    """

    def __init__(self, finding: Finding, num_runs: int) -> None:
        self.finding = finding
        super().__init__(f"run {num_runs} of the exploration went wrong:\n{finding}")


def name_of(scenario: Scenario) -> str:
    """Return how the command line names a scenario, from the working directory."""
    name = getattr(scenario, "__qualname__", f"<{type(scenario).__qualname__}>")
    module = getattr(scenario, "__module__", "?")
    return f"{_script() if module == '__main__' else module}:{name}"


def _script() -> str:
    """Name the module that this process runs as a script."""
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None:
        return str(main.__spec__.name)  # type: ignore[union-attr]  # asked in the line above
    file = Path(getattr(main, "__file__", None) or "__main__").absolute()
    inside = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else Path(file.name)
    return ".".join(inside.with_suffix("").parts)
