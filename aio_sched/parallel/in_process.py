"""Ranks that share one event loop, for tests and simulations: same frames, same failures."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from aio_sched.parallel.errors import RankGroupClosedError, RankLostError
from aio_sched.parallel.exchange import FramedGroup, check_timeout, left_behind, named, too_few
from aio_sched.parallel.frames import Frame
from aio_sched.parallel.group import RankGroup
from streams.hazards.ranks import arrive, depart

__all__ = ["InProcessRanks"]


class InProcessRanks:
    """Rank groups of one event loop, in virtual time or not, and the faults that befall them.

    A fault is for the rank that ``groups`` has at that place, whatever number a rebuild gave it::

        ranks = InProcessRanks(2)
        await asyncio.gather(*(serve(group) for group in ranks.groups))

    Args:
        size: ranks to begin with.
        timeout_s: seconds that an exchange may take where its caller does not say.
        min_size: fewest ranks that a rebuild goes on with.

    Attributes:
        groups: one for each rank, by the number that it begins with.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, size: int, *, timeout_s: float = 5.0, min_size: int = 1) -> None:
        if not 1 <= min_size <= size:
            raise ValueError(f"size={size}, min_size={min_size}: use 1 <= min_size <= size")
        check_timeout(timeout_s)
        world = _World(min_size)
        self._members = [InProcessGroup(world, rank, size, timeout_s) for rank in range(size)]
        world.begin(self._members)
        self.groups: tuple[RankGroup, ...] = tuple(self._members)

    def kill(self, rank: int) -> None:
        """Let the process of a rank be gone: its calls fail, and the others' exchange."""
        self._members[rank].end("is gone")

    def stop(self, rank: int) -> None:
        """Let a rank hang: its calls do not return until ``resume``."""
        self._members[rank].running.clear()

    def resume(self, rank: int) -> None:
        """Let a rank that hangs go on where it was."""
        self._members[rank].running.set()


class _Gate:
    """An event whose waiters also go on, with an error, when their rank has ended."""

    def __init__(self) -> None:
        self.is_set = False
        self._waiters: set[asyncio.Future[None]] = set()

    def set(self) -> None:
        self.is_set = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        self.is_set = False

    async def passed(self, member: "InProcessGroup") -> None:
        """Wait until it is set."""
        while not self.is_set:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            member.waits.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
                member.waits.discard(waiter)


class _World:
    """What the ranks share: who is in, the exchange to come, and the bells."""

    def __init__(self, min_size: int) -> None:
        self.min_size = min_size
        self.epoch = -1
        self.members: list[InProcessGroup] = []

    def begin(self, members: "list[InProcessGroup]") -> None:
        """Begin an epoch with ``members``, in order of rank."""
        self.epoch += 1
        self.members = members
        self.meeting = _Meeting(self)
        # By number of the exchange after which the ranks sleep: all of them wake, or none.
        self.bells: defaultdict[int, _Gate] = defaultdict(_Gate)
        self.rally = _Rally(self)

    def next_meeting(self) -> "_Meeting":
        """Return the exchange that a rank takes part in next; a failed one stays."""
        if self.meeting.over.is_set and self.meeting.error is None:
            self.meeting = _Meeting(self)
        return self.meeting

    def leave(self, member: "InProcessGroup", how: str) -> None:
        """Go on without a rank: the exchange fails, and nobody waits for it to rebuild."""
        if member in self.members:
            rank = self.members.index(member)
            self.next_meeting().break_up(f"rank {rank} {how}", (rank,))
            self.rally.came.discard(member)
            self.rally.end_if_all_came()


class _Meeting:
    """One exchange: what has come, and how it ended."""

    def __init__(self, world: _World) -> None:
        self.rows: dict[int, Sequence[int]] = {}
        self.error: tuple[str, tuple[int, ...]] | None = None
        self.over = _Gate()
        self._size = len(world.members)

    def bring(self, rank: int, words: Sequence[int]) -> None:
        """Add what ``rank`` gives; the last one ends the exchange."""
        if not self.over.is_set:
            arrive(self)
            self.rows[rank] = words
            if len(self.rows) == self._size:
                self.over.set()

    def expire(self, rank: int, timeout_s: float) -> None:
        """End the exchange because ``rank`` has waited long enough."""
        missing = tuple(rank for rank in range(self._size) if rank not in self.rows)
        why = f"{named(missing)} did not come while rank {rank} waited {timeout_s:g} s"
        self.break_up(why, missing)

    def break_up(self, why: str, ranks: tuple[int, ...]) -> None:
        """Fail the exchange for all, unless it is over."""
        if not self.over.is_set:
            self.error = (why, ranks)
            self.over.set()


class _Rally:
    """Who has come to begin the next epoch."""

    def __init__(self, world: _World) -> None:
        self.over = _Gate()
        self.came: set[InProcessGroup] = set()
        self._world = world
        self._timer: asyncio.TimerHandle | None = None

    def join(self, member: "InProcessGroup", timeout_s: float) -> None:
        """Add a rank; the first one sets the time."""
        arrive(self)
        self.came.add(member)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(timeout_s, self._end)
        self.end_if_all_came()

    def end_if_all_came(self) -> None:
        """Begin the next epoch if nobody else can come."""
        if self.came and all(m in self.came or m.is_ended for m in self._world.members):
            self._end()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if len(self.came) >= self._world.min_size:
            self._world.begin([m for m in self._world.members if m in self.came])
        else:
            self._world.rally = _Rally(self._world)
        self.over.set()


class InProcessGroup(FramedGroup):
    """The group as one rank sees it."""

    def __init__(self, world: _World, rank: int, size: int, timeout_s: float) -> None:
        super().__init__(rank, size, timeout_s)
        self.running = _Gate()
        self.running.set()
        self.is_ended = False
        #: Everything that calls of this rank wait for.
        self.waits: set[asyncio.Future[None]] = set()
        self._world = world
        # An exchange whose caller was cancelled.
        self._left: _Meeting | None = None

    def end(self, how: str) -> None:
        """Be gone for good."""
        if self.is_ended:
            return
        self.is_ended = self._is_closed = True
        for wait in self.waits:
            if not wait.done():
                wait.set_exception(RankGroupClosedError(f"rank {self.rank} {how} meanwhile"))
        self._world.leave(self, how)

    async def aclose(self) -> None:
        """Leave the group; an exchange that is under way fails, here and on other ranks."""
        self.end("left the group")

    async def wait_for_work(self) -> None:
        """Sleep until a rank rings."""
        self._check_usable()
        await self._world.bells[self.number].passed(self)
        await self.running.passed(self)

    def ring(self) -> None:
        """Wake the ranks that sleep."""
        if not self.is_ended and self in self._world.members:
            self._world.bells[self.number].set()

    async def _swap(
        self, frame: Frame, words: Sequence[int], timeout_s: float
    ) -> Sequence[Sequence[int]]:
        await self.running.passed(self)
        self._check_member()
        try:
            async with asyncio.timeout(timeout_s):
                if self._left is not None:
                    await self._left.over.passed(self)
                self._left = self._world.next_meeting()
                self._left.bring(self.rank, words)
                await self._left.over.passed(self)
        except TimeoutError:
            assert self._left is not None, "this is what was waited for"
            self._left.expire(self.rank, timeout_s)
        meeting, self._left = self._left, None
        await self.running.passed(self)
        if meeting.error is not None:
            why, ranks = meeting.error
            raise RankLostError(f"{frame} failed: {why}; rebuild the group to go on", ranks)
        depart(meeting)
        self._world.bells.pop(self.number - 2, None)
        return [meeting.rows[rank] for rank in range(self.size)]

    async def _regroup(self, timeout_s: float) -> tuple[int, int, int]:
        await self.running.passed(self)
        self._check_member()
        self.ring()
        self._left = None
        world, rally = self._world, self._world.rally
        world.next_meeting().break_up(f"rank {self.rank} began to rebuild", (self.rank,))
        rally.join(self, timeout_s)
        try:
            await rally.over.passed(self)
        finally:
            if not rally.over.is_set:
                rally.came.discard(self)
        await self.running.passed(self)
        if len(rally.came) < world.min_size:
            raise too_few(len(rally.came), self.size, world.min_size, timeout_s)
        depart(rally)
        return world.epoch, world.members.index(self), len(world.members)

    def _check_member(self) -> None:
        if self not in self._world.members:
            raise left_behind(self.rank, self.epoch)
