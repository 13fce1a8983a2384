"""How long the work of a simulated device takes, and what kind of device it resembles."""

import dataclasses
import math
import random
from typing import TypeAlias

from streams.device import Platform

__all__ = ["PROFILES", "SimProfile", "as_profile", "is_copy"]

RangeUs: TypeAlias = tuple[float, float]
"""Shortest and longest duration, in microseconds of virtual time."""

_COPIES = frozenset({"host_copy", "stage_copy", "pull_rows"})


@dataclasses.dataclass(frozen=True)
class SimProfile:
    """Durations of a simulated device, in microseconds of virtual time, and its shape.

    Each duration is drawn between its two ends, on a logarithmic scale, so that short
    and long ones are equally likely. Order does not depend on them, values read too
    early do: try a program under several.

    Attributes:
        name: names it in errors.
        prepare_us: launches of a step's prepare.
        forward_us: launches of its forward.
        publish_us: launches of its publish.
        other_us: launches that belong to no stage.
        copy_us: copies between host and device, in whatever stage.
        query_us: what one question to the device (``Stream.advance``) costs.
        hardware_queues: how many queues the streams share; an operation also waits for
            all that were put into its queue before, on other streams too. None gives
            each stream its own.
        platform: as which platform policies see the device.
        polled: its streams cannot call back, so that the bridge has to poll them.
    """

    name: str
    prepare_us: RangeUs = (20.0, 20.0)
    forward_us: RangeUs = (100.0, 100.0)
    publish_us: RangeUs = (20.0, 20.0)
    other_us: RangeUs = (20.0, 20.0)
    copy_us: RangeUs = (20.0, 20.0)
    query_us: float = 2.0
    hardware_queues: int | None = None
    platform: Platform = Platform.SIM
    polled: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name.endswith("_us") and field.name != "query_us":
                shortest, longest = getattr(self, field.name)
                if not 0 < shortest <= longest < math.inf:
                    raise ValueError(
                        f"{field.name}=({shortest}, {longest}) of profile {self.name!r}: "
                        "give a range of positive microseconds, the shortest first"
                    )
        if not 0 <= self.query_us < math.inf:
            raise ValueError(f"query_us={self.query_us} of profile {self.name!r} is negative")
        if self.hardware_queues is not None and self.hardware_queues < 1:
            raise ValueError(
                f"hardware_queues={self.hardware_queues} of profile {self.name!r} is not positive; "
                "None gives each stream its own"
            )

    @property
    def query_ns(self) -> int:
        """What one question costs, in nanoseconds."""
        return round(self.query_us * 1e3)

    def draw_ns(self, dice: random.Random, stage: str | None, label: str) -> int:
        """Draw how long a launch takes, in nanoseconds.

        Args:
            dice: decides.
            stage: the stage that issued it, None for none.
            label: its function's name.
        """
        shortest, longest = self._range(stage, label)
        log_us = dice.uniform(math.log(shortest), math.log(longest))
        return max(1, round(math.exp(log_us) * 1e3))

    def _range(self, stage: str | None, label: str) -> RangeUs:
        if is_copy(label):
            return self.copy_us
        ranges = {
            "prepare": self.prepare_us,
            "forward": self.forward_us,
            "publish": self.publish_us,
        }
        return ranges.get(stage or "", self.other_us)


def is_copy(label: str) -> bool:
    """Whether a launch of this label is one of our copies between host and device."""
    return label.rpartition(".")[2] in _COPIES


_WIDE: RangeUs = (5.0, 5000.0)

PROFILES = {
    profile.name: profile
    for profile in (
        SimProfile("friendly"),
        SimProfile("random", _WIDE, _WIDE, _WIDE, _WIDE, _WIDE),
        SimProfile("long_forward", (10, 50), (5000, 20000), (10, 50), (10, 50), (10, 50)),
        SimProfile("slow_copy", (10, 50), (100, 400), (10, 50), (10, 50), (5000, 20000)),
        SimProfile(
            "rocm",
            (20, 200),
            (200, 4000),
            (20, 200),
            (20, 200),
            (50, 1000),
            query_us=400.0,
            hardware_queues=2,
            platform=Platform.ROCM,
        ),
        SimProfile(
            "cuda", (10, 200), (200, 4000), (10, 200), (10, 200), (20, 1000), platform=Platform.CUDA
        ),
    )
}


def as_profile(profile: str | SimProfile) -> SimProfile:
    """Return the profile of this name, or the one that was given.

    Raises:
        ValueError: no profile has this name.
    """
    if isinstance(profile, SimProfile):
        return profile
    if profile not in PROFILES:
        raise ValueError(
            f"profile {profile!r} of the simulated device is unknown; use "
            f"{', '.join(map(repr, PROFILES))}, or a SimProfile of your own"
        )
    return PROFILES[profile]
