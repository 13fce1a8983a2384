"""Which run of a scenario: everything that decides what happens in it."""

import enum
import random
import re
import shlex
from dataclasses import dataclass, replace

from aio_sched.testing.await_points import StagePoint
from aio_sched.testing.strategies import (
    Choice,
    DelayOne,
    FifoOrder,
    Order,
    PctOrder,
    RandomOrder,
    Replay,
)
from streams.simulated import PROFILES, Fault
from streams.simulated.profile import SimProfile, as_profile

__all__ = ["STRATEGIES", "CancelKind", "Schedule", "draw_schedule"]

_ORDERS = ("fifo", "random", "pct", "delay")
STRATEGIES = ("random", "pct", "single_cancel", "delay_one")


class CancelKind(enum.Enum):
    """How a run is cut short."""

    NATIVE = "native"  # Task.cancel, as asyncio.timeout and wait_for use it
    ANYIO = "anyio"  # CancelScope.cancel, which goes on until the scope is left
    SIGTERM = "sigterm"  # the signal, for scenarios that handle it


@dataclass(frozen=True)
class Schedule:
    """One run: the same schedule gives the same run, in any process.

    Attributes:
        seed: of the simulated device, and of the order of tasks.
        profile: of the simulated device, by name, or one of your own (no replay has that).
        order_name: ``"fifo"``, ``"random"``, ``"pct"`` or ``"delay"``.
        overlap: whether the schedulers overlap.
        is_strict: whether the hazard checker keeps a clock per task.
        faults: what goes wrong.
        delay: the task step that ``"delay"`` puts off.
        cancel_at: the await point, or the beginning of a stage, at which the scenario is
            cancelled; None: never.
        cancel_kind: how.
        num_steps: about how many task steps a run has, for ``"pct"``.
        choices: of another run, to be made again instead of an order's own.

    Raises:
        ValueError: no profile or order has this name.
    """

    seed: int = 0
    profile: str | SimProfile = "friendly"
    order_name: str = "fifo"
    overlap: bool = True
    is_strict: bool = False
    faults: tuple[Fault, ...] = ()
    delay: int = 0
    cancel_at: int | StagePoint | None = None
    cancel_kind: CancelKind = CancelKind.NATIVE
    num_steps: int = 1000
    choices: tuple[Choice, ...] | None = None

    def __post_init__(self) -> None:
        as_profile(self.profile)
        if self.order_name not in _ORDERS:
            known = ", ".join(map(repr, _ORDERS))
            raise ValueError(f"order {self.order_name!r} is unknown; use one of {known}")

    def order(self) -> Order:
        """Make the order of tasks for one run."""
        if self.choices is not None:
            return Replay(self.choices)
        match self.order_name:
            case "fifo":
                return FifoOrder()
            case "random":
                return RandomOrder(self.seed)
            case "pct":
                return PctOrder(self.seed, steps=self.num_steps)
        return DelayOne(self.delay, turns=None)

    def arguments(self) -> str:
        """Return the arguments of ``aio-sched explore`` that make this run again."""
        parts = [f"--replay={self.seed}:{as_profile(self.profile).name}:{self.order_name}"]
        if self.order_name == "delay":
            parts.append(f"--delay {self.delay}")
        if self.order_name == "pct":
            parts.append(f"--steps {self.num_steps}")
        if self.is_strict:
            parts.append("--strict")
        if self.cancel_at is not None:
            parts.append(f"--cancel {self.cancel_kind.value}:{_point_text(self.cancel_at)}")
        parts += [f"--fault {shlex.quote(_fault_text(fault))}" for fault in self.faults]
        if self.choices is not None:
            parts.append(f"--choices {shlex.quote(choices_text(self.choices))}")
        return " ".join(parts)


def draw_schedule(
    seed: int,
    order_name: str,
    *,
    profiles: tuple[str, ...] = (),
    strict: bool | None = None,
    num_steps: int = 1000,
) -> Schedule:
    """Draw a run by seed: a profile, and whether the checker is strict unless that is given."""
    names = profiles or tuple(PROFILES)
    dice = random.Random(f"schedule/{seed}")
    profile, is_strict = dice.choice(names), dice.random() < 0.5
    if strict is not None:
        is_strict = strict
    return Schedule(seed, profile, order_name, is_strict=is_strict, num_steps=num_steps)


def choices_text(choices: tuple[Choice, ...]) -> str:
    """Write choices in one line: those that are not first in, first out, by their turn."""
    return ";".join(
        f"{turn}={','.join(map(str, choice))}"
        for turn, choice in enumerate(choices)
        if choice is not None
    )


def parse_choices(text: str) -> tuple[Choice, ...]:
    """Read what ``choices_text`` wrote.

    Raises:
        ValueError: it is none.
    """
    if text and not re.fullmatch(r"\d+=\d+(,\d+)*(;\d+=\d+(,\d+)*)*", text):
        raise ValueError(f"choices {text!r} are not turn=place,place;turn=place,...")
    made: dict[int, Choice] = {}
    for entry in filter(None, text.split(";")):
        turn, _, places = entry.partition("=")
        made[int(turn)] = tuple(int(place) for place in places.split(","))
    return tuple(made.get(turn) for turn in range(max(made, default=-1) + 1))


def _point_text(point: int | StagePoint) -> str:
    return f"{point.stage}/{point.step}" if isinstance(point, StagePoint) else str(point)


def parse_point(text: str) -> int | StagePoint:
    """Read a point as ``Schedule.arguments`` writes it: a number, or stage/step.

    Raises:
        ValueError: it is none.
    """
    stage, _, step = text.rpartition("/")
    if not step.isdecimal() or (stage and stage not in ("prepare", "forward", "publish")):
        raise ValueError(f"point {text!r} is neither a number nor STAGE/STEP, as forward/3")
    return StagePoint(stage, int(step)) if stage else int(step)


def _fault_text(fault: Fault) -> str:
    step = "" if fault.step is None else str(fault.step)
    nth = "every" if fault.nth is None else str(fault.nth)
    parts = [fault.kind.value, fault.stage or "", fault.label or "", step, nth]
    return ":".join((*parts, repr(fault.factor), repr(fault.delay_us)))


def parse_fault(text: str) -> Fault:
    """Read a fault as ``Schedule.arguments`` writes it: kind:stage:label:step:nth:factor:delay_us.

    Raises:
        ValueError: it is none.
    """
    kind, *rest = text.split(":")
    if len(rest) > 6:
        raise ValueError(f"fault {text!r} is not KIND:STAGE:LABEL:STEP:NTH:FACTOR:DELAY_US")
    stage, label, step, nth, factor, delay_us = (*rest, *[""] * 6)[:6]
    fault = Fault(
        kind,  # type: ignore[arg-type]  # made a FaultKind there, or refused with a list
        stage or None,
        label or None,
        int(step) if step else None,
        None if nth == "every" else int(nth or 1),
    )
    fault = replace(fault, factor=float(factor)) if factor else fault
    return replace(fault, delay_us=float(delay_us)) if delay_us else fault
