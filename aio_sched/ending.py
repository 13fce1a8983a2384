"""How a scheduler ends: tasks, steps, memory, streams and device, in this order."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from aio_sched.errors import StepAbortedError
from aio_sched.turn import Launched, Turns
from streams.clock import perf_s
from streams.errors import DeadlineError, DeviceLostError
from streams.log import get_logger

__all__ = ["Ending"]

log = get_logger("ending")

_CANCEL_AGAIN_S = 0.1


@dataclass
class Ending:
    """The end of one scheduler, bounded by its ``stop_deadline_s``.

    Attributes:
        tasks: the issuer first.
        abort: cancels the tasks.
    """

    turns: Turns
    tasks: "list[asyncio.Task[None]]"
    owns_device: bool
    abort: Callable[[], object]
    _started_s: float = field(default_factory=perf_s)

    def left_s(self) -> float:
        """Seconds until the deadline; 0 when it has passed."""
        deadline_s = self._started_s + self.turns.config.stop_deadline_s
        return max(0.0, deadline_s - perf_s())

    async def stop_tasks(self, drain: bool) -> None:
        """Let the issuer finish if asked to, and cancel what runs then.

        A stage may lose a cancellation (``asyncio.wait_for`` of Python 3.11 can), so
        that it is repeated.
        """
        if drain:
            await asyncio.wait(self.tasks[:1], timeout=self.left_s())
        tries = 0
        while running := [task for task in self.tasks if not task.done()]:
            # Also past the deadline a few times: a stage that can end does so at once.
            if tries > 5 and not self.left_s():
                log.error("stage_ignores_cancellation", tasks=repr(running))
                return
            self.abort()
            tries += 1
            await asyncio.wait(running, timeout=_CANCEL_AGAIN_S)

    def fail_rest(self, fatal: Callable[[], BaseException | None]) -> None:
        """Fail the steps in flight; delivered ones have had their end."""
        aborted = StepAbortedError(
            "the scheduler stopped before this step was published; stop(drain=True) "
            f"publishes what its stages finish within {self.turns.config.stop_deadline_s} s"
        )
        while self.turns.in_flight:
            launched = self.turns.in_flight.popleft()
            if not launched.is_delivered:
                self.turns.fail(launched, _error_of(launched, fatal()) or aborted)
            launched.step.abandon()

    async def run_dry(self, fatal: BaseException | None) -> None:
        """Wait for the device to let go of our memory, then give the streams back.

        Raises:
            DeadlineError: it has not within ``stop_deadline_s``; nothing is given back.
            DeviceLostError: it never will.
        """
        if isinstance(fatal, DeadlineError):
            return  # it hangs: its memory stays held, and joining its worker would hang too
        turns = self.turns
        try:
            for stream in (*turns.streams, *turns.pipeline.streams):
                await stream.drained(max(self.left_s(), 0.001))
            await turns.keep_alive.drained(max(self.left_s(), 0.001))
        except DeviceLostError:
            turns.keep_alive.collect()
            # Closing joins threads, one of which may be in the middle of something long.
            closing = asyncio.get_running_loop().run_in_executor(None, self._give_back)
            await asyncio.wait([closing], timeout=self.left_s())
            raise
        self._give_back()

    def _give_back(self) -> None:
        for stream in self.turns.streams:
            stream.close()
        if self.owns_device:
            self.turns.device.close()


def _error_of(launched: Launched, fatal: BaseException | None) -> BaseException | None:
    if launched.error is not None and launched.is_cut_short and fatal is not None:
        # All that it knows is that it was cancelled; this is why.
        launched.error.__cause__ = fatal
    return launched.error or fatal
