"""The loop: prepare n+1 and publish n-1 while the device runs forward n.

``OverlapScheduler`` overlaps; ``SequentialScheduler`` runs the same pipeline one
step at a time and is the oracle: overlap changes timing, never results. What both
share is in ``lifecycle.py`` (start, stop) and ``turn.py`` (one step's stages).
"""

import asyncio

from aio_sched.lifecycle import Scheduler
from aio_sched.wakeup import Wakeup

__all__ = ["OverlapScheduler", "SequentialScheduler"]


class OverlapScheduler(Scheduler):
    """Run a pipeline with up to ``depth`` steps in flight.

    One task, the issuer, makes every device call, in step order; a second one
    publishes behind it, so that the results of step n never wait for a slow
    prepare of step n+1.
    """

    async def _run(self) -> None:
        """Launch step after step while there is room in flight."""
        turns, launched_one = self.turns, Wakeup()
        self._spawn(self._publish_behind(launched_one), "publisher")
        while not self.is_stopping:
            if turns.must_back_off:
                await turns.back_off()
            elif len(turns.in_flight) >= turns.config.depth:
                await turns.rest("room")
            elif (launched := await turns.launch_next()) is None:
                await turns.rest("idle")
            else:
                launched_one.set()
                if not launched.may_overlap:
                    await turns.all_published()
        await turns.all_published()

    async def _publish_behind(self, launched_one: Wakeup) -> None:
        """Publish what was launched, in step order."""
        in_flight = self.turns.in_flight
        while not self.is_aborting:
            await launched_one.wait()
            while in_flight and not self.is_aborting:
                await self.turns.publish(in_flight[0])
                if in_flight and not in_flight[0].step.has_left_device:
                    # There is room now and nothing else to publish: the issuer comes first,
                    # before the device runs dry.
                    await asyncio.sleep(0)


class SequentialScheduler(Scheduler):
    """Run the same pipeline with nothing overlapped: the oracle, and the off switch."""

    async def _run(self) -> None:
        """Launch a step, publish it, and only then look for the next one."""
        turns = self.turns
        while not self.is_stopping:
            if turns.must_back_off:
                await turns.back_off()
            elif (launched := await turns.launch_next()) is None:
                await turns.rest("idle")
            else:
                turns.state("room")
                await turns.publish(launched)
                await asyncio.sleep(0)  # stages that never suspend must not starve others
