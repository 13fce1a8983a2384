"""The WAR barrier: prepare(n+1) must not overwrite what forward(n) still reads.

One function, ``WarBarrier.apply``, shared by every mode and called right after a
step is launched; result processing writes the same tables, so the top of the next
turn would be too late.
"""

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streams.device import Platform
from streams.event import Event

if TYPE_CHECKING:
    from aio_sched.stages import Step

__all__ = ["WarBarrier", "WarPolicy"]


class WarPolicy(enum.Enum):
    """How prepare is kept from overwriting what a forward still reads."""

    READ_DONE = "read_done"
    """The schedule stream waits for the event that forward recorded where its reads
    of shared memory end; for the whole forward where it recorded none."""
    WHOLE_FORWARD = "whole_forward"
    """The schedule stream waits for all of forward."""
    ROTATE = "rotate"
    """No wait: the pipeline keeps ``depth`` copies of every shared table and picks one
    by ``step.rotation``; the bound on steps in flight keeps a copy from being reused."""
    OFF = "off"
    """No wait and no copies: sound only if prepare writes nothing that forward reads."""


# On these a wait of the schedule stream was measured to cost little; elsewhere it was
# seen to cost up to a fifth of the throughput, so copies come first where there are any.
_BARRIER_IS_CHEAP = frozenset({Platform.CUDA})


@dataclass
class WarBarrier:
    """One scheduler's barrier.

    Attributes:
        policy: what ``apply`` does.
        reason: why this policy, for the log.
    """

    policy: WarPolicy
    reason: str = "chosen by the caller"

    def __post_init__(self) -> None:
        self._mailbox: Event | None = None

    @classmethod
    def resolve(
        cls,
        setting: str,
        asked_by: str,
        *,
        platform: Platform,
        table_copies: int,
        depth: int,
    ) -> "WarBarrier":
        """Choose the policy for a platform and a pipeline.

        Args:
            setting: ``"auto"``, ``"cuda_only"`` or a policy's name.
            asked_by: where the setting comes from, for messages.
            platform: whose streams these are.
            table_copies: copies of its shared tables that the pipeline rotates.
            depth: steps that may be in flight.

        Raises:
            ValueError: no such setting, or ``rotate`` with too few copies.
        """
        can_rotate = table_copies >= depth
        if setting == "auto":
            policy = WarPolicy.READ_DONE
            if platform not in _BARRIER_IS_CHEAP and can_rotate:
                policy = WarPolicy.ROTATE
            return cls(policy, f"auto on {platform.value}, {table_copies} table copies")
        if setting == "cuda_only":
            on_cuda = platform is Platform.CUDA
            policy = WarPolicy.READ_DONE if on_cuda else WarPolicy.OFF
            return cls(policy, f"cuda_only ({asked_by}) on {platform.value}")
        try:
            policy = WarPolicy(setting)
        except ValueError:
            known = ["auto", "cuda_only", *(policy.value for policy in WarPolicy)]
            raise ValueError(
                f"WAR barrier {setting!r} ({asked_by}) is unknown; use one of {known}"
            ) from None
        if policy is WarPolicy.ROTATE and not can_rotate:
            raise ValueError(
                f"WAR barrier 'rotate' ({asked_by}) needs {depth} copies of the shared "
                f"tables, the pipeline has table_copies={table_copies}; rotate them by "
                "step.rotation and set table_copies, or choose 'read_done'"
            )
        return cls(policy, asked_by)

    def post(self, read_done: Event) -> None:
        """Put a step's read-done event into the mailbox for ``apply`` to take."""
        self._mailbox = read_done

    def apply(self, step: "Step") -> None:
        """Order the next prepare behind this step's reads; device side only.

        The mailbox is cleared on take, so a step that posted nothing costs a wait
        for its whole forward, never a stale event.
        """
        read_done, self._mailbox = self._mailbox, None
        if self.policy is WarPolicy.READ_DONE and read_done is not None:
            # WAR: prepare(n+1) rewrites shared tables that forward(n) reads up to here.
            step.schedule_stream.wait_event(read_done)
        elif self.policy in (WarPolicy.READ_DONE, WarPolicy.WHOLE_FORWARD):
            # WAR: prepare(n+1) rewrites shared tables that forward(n) may still read.
            step.schedule_stream.wait_stream(step.forward_stream)
