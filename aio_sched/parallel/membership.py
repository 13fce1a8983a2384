"""A rank's place in its group: awake, asleep until somebody rings, leaving, gone."""

import asyncio
from collections.abc import Callable

from aio_sched.errors import SchedulerClosedError
from aio_sched.parallel.global_batch import Farewell, GlobalBatch
from aio_sched.parallel.group import RankGroup

__all__ = ["Membership"]

# The pass that is under way and the one that says goodbye: a rebuild and two exchanges each.
_LAST_EXCHANGES = 6


class Membership:
    """What follows for this rank from what was gathered; it enqueues nothing.

    Args:
        group: the rank's; left when the rank parts.
        wake: lets the rank's scheduler look again.

    Attributes:
        farewell: what the rank states about its own going.
        parting: leaves the group, once the rank has parted; None before.
    """

    def __init__(self, group: RankGroup, wake: Callable[[], object]) -> None:
        self.group = group
        self.farewell = Farewell.STAYS
        self.parting: asyncio.Task[None] | None = None
        self._wake = wake
        self._bell: asyncio.Task[None] | None = None
        self._must_rebuild = False
        self._has_parted = asyncio.Event()

    @property
    def is_asleep(self) -> bool:
        """Whether nothing is exchanged until a rank rings."""
        return self._bell is not None and not self._bell.done()

    @property
    def has_parted(self) -> bool:
        """Whether the rank takes part no more."""
        return self.parting is not None

    async def settle(self) -> None:
        """Get ready for an exchange.

        Raises:
            Exception: what ``wait_for_work`` raised, or ``rebuild`` raises.
        """
        if (bell := self._bell) is not None:
            self._bell = None
            bell.result()
        if self._must_rebuild:
            self._must_rebuild = False
            await self.group.rebuild()

    def follow(self, merged: GlobalBatch) -> None:
        """Do what an exchange asks of this rank: part, stay with fewer, or fall asleep."""
        if self.group.rank in merged.parting:
            self.part()
        elif merged.parting:
            # Those who part do not come to the next exchange: the others go on by themselves.
            self._must_rebuild = True
        elif merged.can_sleep:
            self._bell = asyncio.create_task(self.group.wait_for_work(), name="aio-sched-bell")
            self._bell.add_done_callback(self._rang)

    async def leave(self, farewell_s: float) -> None:
        """Tell the others of going; return when none of them waits for this rank any more.

        For so many seconds the rank goes on taking part, with idle batches, so that ranks
        that end at about the same time part together, and none has to rebuild the group.
        """
        if not self.has_parted:
            await self._state(Farewell.WANTS_TO_GO, farewell_s)
        if not self.has_parted:
            await self._state(Farewell.GOES, _LAST_EXCHANGES * self.group.timeout_s)
        # By now it can make no exchange, as its device hangs: the others have given it up.
        self.part()

    def part(self) -> None:
        """Leave the group in the background; ``parting`` does it."""
        if self.parting is None:
            self.parting = asyncio.create_task(self._part(), name="aio-sched-parting")
            self._has_parted.set()

    async def _state(self, farewell: Farewell, timeout_s: float) -> None:
        self.farewell = farewell
        self._look_again()
        try:
            async with asyncio.timeout(timeout_s):
                await self._has_parted.wait()
        except TimeoutError:
            return

    async def _part(self) -> None:
        if (bell := self._bell) is not None:
            bell.cancel()
            await asyncio.wait([bell])
        await self.group.aclose()

    def _rang(self, bell: "asyncio.Task[None]") -> None:
        if not bell.cancelled():
            bell.exception()  # for ``settle``: here it only counts as looked at
            self._look_again()

    def _look_again(self) -> None:
        try:
            self._wake()
        except SchedulerClosedError:
            return  # it has stopped, and parts when it is done
