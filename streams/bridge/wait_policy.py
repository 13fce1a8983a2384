"""How the bridge waits for streams that cannot call back.

A policy makes one ``Pace`` per stream, and the pace says when to look next: later,
at once, or never, because a thread shall block for the stream instead. Paces are
arithmetic on the times that they are given; they touch neither device nor loop.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from streams.bridge.governed_pace import GovernedPace
from streams.bridge.prediction import SpinBudget

if TYPE_CHECKING:
    from streams.stream import Stream

__all__ = ["Pace", "WaitPolicy", "wait_policy"]

_ENVIRONMENT = "AIO_SCHED_WAIT_POLICY"


class Pace(Protocol):
    """When to look at one stream; called on the loop's thread, must not wait.

    Times are nanoseconds of ``time.monotonic_ns``.
    """

    def begin(self, now_ns: int) -> None:
        """Somebody waits for the stream, after a time when nobody did."""

    def found(self, now_ns: int, num_done: int) -> None:
        """A look found that ``num_done`` awaited events have completed."""

    def next_look_ns(self, now_ns: int) -> int | None:
        """Say when to look again; asked after each look while somebody waits.

        Returns:
            A time; at or before ``now_ns`` means at the loop's next turn. None: do
            not look, let a thread block for the stream until its next completion.
        """


@runtime_checkable
class WaitPolicy(Protocol):
    """Makes the paces of one bridge; implement it to bring a policy of your own.

    Streams that can call back (``Stream.notifies``) are never polled, whatever the
    policy. One policy object serves one bridge.
    """

    @property
    def name(self) -> str:
        """Shown in the bridge's ``repr``."""

    def pace(self, stream: "Stream") -> Pace:
        """Make the pace of a stream that is awaited for the first time."""


class _Governed:
    """Prediction, with or without a share of wall time to spin, and threads where it fails."""

    def __init__(self, name: str, spin_share: float, patience: float) -> None:
        self.name = name
        self._budget = SpinBudget(spin_share) if spin_share else None
        self._patience = patience

    def pace(self, stream: "Stream") -> GovernedPace:
        return GovernedPace(self._budget, self._patience)


class _Steady:
    """A pace that learns nothing, and the policy that makes it."""

    def __init__(self, name: str, looks: bool) -> None:
        self.name = name
        self._looks = looks

    def pace(self, stream: "Stream") -> "_Steady":
        return self

    def begin(self, now_ns: int) -> None:
        """Nothing to forget."""

    def found(self, now_ns: int, num_done: int) -> None:
        """Nothing to learn."""

    def next_look_ns(self, now_ns: int) -> int | None:
        return now_ns if self._looks else None


_POLICIES: dict[str, Callable[[], WaitPolicy]] = {
    "auto": lambda: _Governed("auto", 0.0, patience=1.0),
    "low_latency": lambda: _Governed("low_latency", 0.25, patience=0.25),
    "thread": lambda: _Steady("thread", looks=False),
    "spin": lambda: _Steady("spin", looks=True),
}


def wait_policy(policy: "str | WaitPolicy | None" = None) -> WaitPolicy:
    """Make a policy from its name, or return the caller's own.

    Streams that can call back do so under every policy. For the others:

    - ``"auto"`` looks around the predicted completion; for a stream whose completions
      cannot be predicted a thread blocks.
    - ``"low_latency"`` does the same and spins around the completion, for at most a
      quarter of one core.
    - ``"thread"`` keeps a thread per stream blocked in the driver: least CPU.
    - ``"spin"`` looks at every turn of the loop: one core.

    Args:
        policy: ``"auto"``, ``"low_latency"``, ``"thread"``, ``"spin"``, an object
            that implements ``WaitPolicy``, or None for what the environment
            variable ``AIO_SCHED_WAIT_POLICY`` names (``"auto"`` without it).

    Raises:
        ValueError: no policy has this name.
        TypeError: the object is neither a name nor a policy.
    """
    source = ""
    if policy is None:
        policy = os.environ.get(_ENVIRONMENT) or "auto"
        source = f" (from the environment variable {_ENVIRONMENT})"
    if not isinstance(policy, str):
        if isinstance(policy, type) or not isinstance(policy, WaitPolicy):
            raise TypeError(
                f"{policy!r} is no wait policy; give a name or an object with "
                "a name and pace(stream), see WaitPolicy"
            )
        return policy
    if policy not in _POLICIES:
        known = ", ".join(repr(name) for name in _POLICIES)
        raise ValueError(f"wait policy {policy!r}{source} is unknown; use one of {known}")
    return _POLICIES[policy]()
