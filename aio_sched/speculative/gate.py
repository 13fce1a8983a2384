"""When the plan of a verify may start: from a targeted event of this very step.

A plan rewrites memory that the draft of its own step reads, and reads lengths that the
step before publishes. Both are over at a point in the middle of the forward stream, long
before the draft is: there the draft's step *posts* an event, and the plan *enters* behind it.
"""

from typing import TYPE_CHECKING

from aio_sched.speculative.errors import StalePlanEventError
from streams.event import Event
from streams.stream import Stream

if TYPE_CHECKING:
    from aio_sched.stages import Step

__all__ = ["PlanGate"]


class PlanGate:
    """The mailbox between the draft and the plan of one step.

    An event is bound to the step that posted it. Taking clears the mailbox, and an event of
    an earlier step, left there by a step that broke off or posted too late, is refused: the
    plan then waits for the whole forward stream, as if nothing had been posted. In strict
    mode it is an error, since then a drafter posts at the wrong time.

    Args:
        strict: see above.

    Attributes:
        num_refused: events of earlier steps that were not waited for.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.num_refused = 0
        self._strict = strict
        self._posted: tuple[int, Event] | None = None

    def post(self, step: "Step", event: Event) -> None:
        """Say that what this step's draft does with shared memory is over at ``event``."""
        self._posted = step.index, event

    def enter(self, step: "Step", plan_stream: Stream) -> None:
        """Let what is put on the plan stream from now on be in order; device side only.

        Raises:
            StalePlanEventError: strict mode, and the event is an earlier step's.
        """
        event = self._take(step)
        if event is None:
            # WAR: without an event, the plan rewrites cells that any of the draft may still read.
            plan_stream.wait_stream(step.forward_stream)
        else:
            # RAW: the plan reads lengths that the accept of the step before still publishes.
            # WAR: the plan rewrites the cells that this step's draft claims and reads up to here.
            plan_stream.wait_event(event)

    def _take(self, step: "Step") -> Event | None:
        posted, self._posted = self._posted, None
        if posted is None:
            return None
        index, event = posted
        # WAR: behind an earlier step's event the plan rewrites cells that this draft still reads.
        if index != step.index:
            self._refuse(index, event, step)
            return None
        return event

    def _refuse(self, index: int, event: Event, step: "Step") -> None:
        self.num_refused += 1
        if self._strict:
            raise StalePlanEventError(
                f"the plan of step {step.index} found {event!r}, which step {index} posted; post "
                "an event before the plan of its own step, or none"
            )
