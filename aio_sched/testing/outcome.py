"""What came of one run of a scenario."""

from dataclasses import dataclass, field
from typing import Any

from aio_sched.testing.schedule import Schedule
from aio_sched.testing.strategies import Choice
from aio_sched.trace import TraceRecorder
from streams.hazards import Report
from streams.simulated import Fault

__all__ = ["Outcome"]


@dataclass
class Outcome:
    """What one run did.

    Attributes:
        schedule: which run it was, with the choices that were made.
        result: what the scenario returned.
        error: what it raised.
        reports: of the hazard checker.
        left_behind: tasks, and complaints of checks, after its end.
        calls: hash of the sequence of device calls.
        makespan_s: virtual seconds until the scenario ended.
        num_points: await points that it passed.
        num_steps: task steps that ran, on a ``VirtualLoop``.
        num_calls: device calls that it made.
        failures: of steps that ``Trial.scheduler`` ran: the step, and why.
        is_cancelled: whether it ended by the cancellation that was to cut it short.
        recorder: of the trace, for a picture.
        unfired: faults that never struck.
        struck_s: when faults struck, in order, in seconds of ``streams.clock``.
        is_cut: whether the point was reached at which it was to be cut short.
        choices: which task steps ran in each turn, for a replay.
    """

    schedule: Schedule
    choices: tuple[Choice, ...] = ()
    result: Any = None
    error: BaseException | None = None
    reports: list[Report] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    calls: str = ""
    makespan_s: float = 0.0
    num_points: int = 0
    num_steps: int = 0
    num_calls: int = 0
    failures: list[tuple[int, BaseException]] = field(default_factory=list)
    is_cancelled: bool = False
    recorder: TraceRecorder | None = None
    unfired: tuple[Fault, ...] = ()
    struck_s: tuple[tuple[Fault, float], ...] = ()
    is_cut: bool = False
