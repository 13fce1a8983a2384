"""The overlapped order with a host that blocks: what engines do today."""

import asyncio

from aio_sched.lifecycle import Scheduler
from aio_sched.turn import Launched
from streams.guard import allow_blocking

__all__ = ["BlockingScheduler"]


class BlockingScheduler(Scheduler):
    """Run a pipeline in the overlapped order, and block the loop's thread for results.

    Launches up to ``depth`` steps ahead like ``OverlapScheduler``; then it
    synchronizes with the oldest step and publishes it. The loop gets a turn once per
    step, or it would never run anything else. For comparison only.
    """

    async def _run(self) -> None:
        """Launch a step, block for the oldest, publish it."""
        turns = self.turns
        while not self.is_stopping:
            if turns.must_back_off:
                await turns.back_off()
            elif len(turns.in_flight) >= turns.config.depth:
                await self._publish_blocking(turns.in_flight[0])
            elif await turns.launch_next() is None:
                await self._publish_or_rest()
        while turns.in_flight:
            await self._publish_blocking(turns.in_flight[0])

    async def _publish_or_rest(self) -> None:
        if self.turns.in_flight:
            await self._publish_blocking(self.turns.in_flight[0])
        else:
            await self.turns.rest("idle")

    async def _publish_blocking(self, launched: Launched) -> None:
        assert launched.step.copy_done is not None, "a launched step is sealed"
        with allow_blocking("the benchmark's comparison blocks as engines do"):
            launched.step.copy_done.synchronize()
        await self.turns.publish(launched)
        await asyncio.sleep(0)
