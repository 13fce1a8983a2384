"""How a scheduler runs; frozen, checked when made."""

import os
from dataclasses import dataclass
from typing import TypedDict

from aio_sched.loop_lag import LoopLagMonitor
from aio_sched.monitor import SchedulerMonitor

__all__ = ["SchedulerConfig", "SchedulerOptions"]


@dataclass(frozen=True)
class SchedulerConfig:
    """Settings of a scheduler.

    Attributes:
        depth: steps that may be in flight (launched, not yet published) at most.
        war_barrier: ``"auto"`` (by platform), ``"cuda_only"`` (the table of the
            engine that this re-creates), or a policy of ``WarPolicy`` by name. The
            environment variable ``AIO_SCHED_WAR_BARRIER`` stands in where the
            argument is None.
        strict: errors instead of counts: blocking calls on the loop's thread, device
            calls by another task than the issuer; and the hazard checker is on.
        wait_deadline_s: seconds that the device may take for a step's results,
            counted from when publish begins to wait; beyond it the scheduler stops
            and says what hangs. None waits for ever.
        stop_deadline_s: seconds that ``stop`` waits for work in flight, and for a
            prepare that does not return.
        name: prefix of the names of the scheduler's streams, for several schedulers
            on one device.
    """

    depth: int = 2
    war_barrier: str | None = None
    strict: bool = False
    wait_deadline_s: float | None = 60.0
    stop_deadline_s: float = 30.0
    name: str = ""

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth={self.depth} is below 1; 2 overlaps, 1 does not")
        for field in ("wait_deadline_s", "stop_deadline_s"):
            seconds = getattr(self, field)
            if seconds is not None and seconds <= 0:
                raise ValueError(f"{field}={seconds} is not positive")

    def barrier_setting(self) -> tuple[str, str]:
        """Return the WAR barrier asked for, and by what."""
        if self.war_barrier is not None:
            return self.war_barrier, "argument war_barrier"
        if setting := os.environ.get("AIO_SCHED_WAR_BARRIER"):
            return setting, "environment variable AIO_SCHED_WAR_BARRIER"
        return "auto", "default"


class SchedulerOptions(TypedDict, total=False):
    """Keyword arguments of a scheduler, for what makes one and hands them on."""

    depth: int
    war_barrier: str | None
    strict: bool
    wait_deadline_s: float | None
    stop_deadline_s: float
    name: str
    monitors: tuple[SchedulerMonitor, ...]
    loop_lag: LoopLagMonitor | None
