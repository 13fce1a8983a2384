"""Faults that a simulated device has on purpose, each at a site that a seed can choose."""

import enum
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from streams.launch import Operation
from streams.simulated.profile import is_copy

__all__ = ["Fault", "FaultKind", "FaultPlan", "InjectedFaultError"]


class InjectedFaultError(RuntimeError):
    """What a fault of a plan raises; the simulated device is all right."""


class FaultKind(enum.Enum):
    """What goes wrong."""

    LAUNCH_RAISES = "launch_raises"  # the function raises InjectedFaultError instead
    LAUNCH_HANGS = "launch_hangs"  # it never ends, and its stream stands still
    DEVICE_LOST = "device_lost"  # the device is lost where the launch would have ended
    OUT_OF_MEMORY = "out_of_memory"  # the function raises torch.OutOfMemoryError instead
    SLOW_COPY = "slow_copy"  # a copy takes `factor` times as long
    SLOW_LAUNCH = "slow_launch"  # any launch takes `factor` times as long
    LATE_WAKEUP = "late_wakeup"  # those who wait for the launch are called `delay_us` late
    QUERY_ERROR = "query_error"  # asking whether the launch is done raises


@dataclass(frozen=True)
class Fault:
    """One site: which launches it is about, and at which of them it strikes.

    Attributes:
        kind: what goes wrong.
        stage: only launches of this stage; None for any.
        label: only launches of this label, the function's name; None for any.
        step: only launches of this step; None for any.
        nth: strikes at the nth launch that matches, from 1; None at every one.
        factor: how many times as long a slow launch takes.
        delay_us: how late a late wake-up comes, in microseconds of virtual time.
    """

    kind: FaultKind
    stage: str | None = None
    label: str | None = None
    step: int | None = None
    nth: int | None = 1
    factor: float = 20.0
    delay_us: float = 5000.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", FaultKind(self.kind))
        if self.nth is not None and self.nth < 1:
            raise ValueError(f"nth={self.nth} of {self} is not positive; None means every launch")
        if self.factor <= 0 or self.delay_us < 0:
            raise ValueError(f"factor={self.factor}, delay_us={self.delay_us}: give positive ones")

    def __str__(self) -> str:
        place = [f"{self.label or 'launch'}", *([f"of {self.stage}"] if self.stage else [])]
        place += [f"in step {self.step}"] if self.step is not None else []
        return f"{self.kind.value} at {' '.join(place)}, {self.nth or 'every'}. pass"

    def matches(self, operation: Operation) -> bool:
        """Whether this launch is one that the site is about."""
        tag = operation.tag
        if operation.fn is None or (
            self.kind is FaultKind.SLOW_COPY and not is_copy(operation.label)
        ):
            return False
        return (
            (self.stage is None or (tag is not None and tag.stage == self.stage))
            and (self.step is None or (tag is not None and tag.step == self.step))
            and (self.label is None or self.label in (operation.label, _last(operation.label)))
        )


class FaultPlan:
    """The faults of one run; make a new plan for each run, since passes are counted here.

    Which launches match is decided in the order in which they are issued, so that it does
    not depend on the durations.

    Args:
        faults: the sites.

    Attributes:
        activations: how often each site took effect; one that never did tests nothing.
    """

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.faults = _checked(faults)
        self.activations: Counter[Fault] = Counter()
        self._passes = [0] * len(self.faults)

    def __repr__(self) -> str:
        return f"<FaultPlan {', '.join(f'{f} ({self.activations[f]}x)' for f in self.faults)}>"

    @classmethod
    def random(
        cls,
        seed: int,
        *,
        kinds: Sequence[FaultKind] = tuple(FaultKind),
        stages: Sequence[str | None] = ("prepare", "forward"),
        num_faults: int = 1,
        max_nth: int = 10,
    ) -> "FaultPlan":
        """Draw sites by seed.

        Args:
            seed: the same seed and arguments give the same plan.
            kinds: to choose from.
            stages: to choose from; None is any. Publish launches nothing in our schedulers.
            num_faults: sites.
            max_nth: a site strikes at the first to the ``max_nth``-th launch that matches.
        """
        dice = random.Random(f"faults/{seed}")
        return cls(
            Fault(dice.choice(kinds), dice.choice(stages), nth=dice.randint(1, max_nth))
            for _ in range(num_faults)
        )

    @property
    def unfired(self) -> tuple[Fault, ...]:
        """Sites that never took effect."""
        return tuple(fault for fault in self.faults if not self.activations[fault])

    def at(self, operation: Operation) -> tuple[Fault, ...]:
        """Device only: count a launch that is being issued, and return what strikes it."""
        struck = []
        for number, fault in enumerate(self.faults):
            if fault.matches(operation):
                self._passes[number] += 1
                if fault.nth in (None, self._passes[number]):
                    struck.append(fault)
        return tuple(struck)

    def activate(self, faults: Iterable[Fault], *kinds: FaultKind) -> Fault | None:
        """Device only: return the first of ``faults`` of these kinds, counted as in effect."""
        for fault in faults:
            if fault.kind in kinds:
                self.activations[fault] += 1
                return fault
        return None


def error_of(fault: Fault, operation: Operation) -> Exception:
    """Return what a fault raises."""
    what = f"injected fault: {fault}, struck {operation}"
    if fault.kind is FaultKind.OUT_OF_MEMORY:
        return torch.OutOfMemoryError(what)
    return InjectedFaultError(what)


def _checked(faults: Any) -> tuple[Fault, ...]:
    is_list = isinstance(faults, Iterable) and not isinstance(faults, str)
    checked: tuple[Any, ...] = tuple(faults) if is_list else ()
    if not is_list or not all(isinstance(fault, Fault) for fault in checked):
        what = checked or faults
        raise TypeError(f"faults={what!r}: give a list of Fault, as [Fault('launch_raises')]")
    return checked


def _last(label: str) -> str:
    return label.rpartition(".")[2]
