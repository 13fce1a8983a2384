"""Rank groups of real processes, over torch.distributed."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from aio_sched.parallel.errors import RankGroupClosedError, RankLostError
from aio_sched.parallel.exchange import FramedGroup, left_behind, named, too_few
from aio_sched.parallel.frames import Frame
from aio_sched.parallel.links import Link, open_link
from aio_sched.parallel.meeting_place import MeetingPlace
from aio_sched.parallel.threads import start_thread
from streams import AioSchedError, DeadlineError, Device, Launch

__all__ = ["TorchRankGroup"]

# The end of an exchange's time is for finding out who is missing.
_NAMING_SHARE = 0.25
_MOST_NAMING_S = 0.5
# The rest of that is for the answer to come back.
_LOOKING_SHARE = 0.7
_LEAST_S = 0.01
# Threads that ask the table have this much longer than what they wait for.
_MARGIN_S = 0.1
_ENDING_S = 0.25


@dataclass
class _Sleep:
    """What wakes this rank after an exchange; it stays there for a sleeper who was cancelled.

    Attributes:
        number: of the exchange.
        heard: another rank has rung; of the thread that listens.
        rung: this one has.
    """

    number: int
    heard: "asyncio.Future[None]"
    rung: "asyncio.Future[None]"


class TorchRankGroup(FramedGroup):
    """One rank of a group of processes; see ``open_rank_group``.

    A collective may come about for some ranks and break for others. A rank that got all values
    in an exchange which failed elsewhere finds out in the next one.

    The rank that keeps the table where the ranks find each other carries the bell, and without
    it nothing can be rebuilt: rank 0 in the beginning, unless torchrun's agent keeps it.
    """

    def __init__(
        self,
        place: MeetingPlace,
        rank: int,
        size: int,
        *,
        keeper: int | None,
        device: Device | None,
        timeout_s: float,
        min_size: int,
    ) -> None:
        super().__init__(rank, size, timeout_s)
        self._place = place
        self._keeper = keeper
        self._device = device
        self._min_size = min_size
        self._link: Link | None = None
        self._last_epoch = 0  # that was tried
        # An exchange whose caller was cancelled.
        self._left: Launch[Any] | None = None
        self._rung_after: int | None = None
        self._sleep: _Sleep | None = None
        # Epochs and numbers of exchanges whose bells may be left in the table.
        self._silent: list[tuple[int, int]] = []
        self._is_left_behind = False
        # Threads that may run on when the group is closed.
        self._ending: set[asyncio.Future[None]] = set()

    # The bell -----------------------------------------------------------------

    async def wait_for_work(self) -> None:
        """Sleep until a rank rings; a thread that sleeps in a socket stands for this one."""
        self._check_usable()
        if self._rung_after == self.number:
            self._silent.append((self.epoch, self.number))
            self._tell_all()
            return
        sleep = self._sleep = self._sleep or self._fall_asleep()
        await asyncio.wait({sleep.heard, sleep.rung}, return_when="FIRST_COMPLETED")
        if self._sleep is sleep:
            self._get_up()
        if sleep.heard.done() and sleep.heard.exception() is not None:
            self._keeper_lost("while nobody had work", sleep.heard.exception())
        self._check_open()
        if self.number == sleep.number:
            self._rung_after = self.number  # for all of them until the next exchange

    def ring(self) -> None:
        """Wake the ranks that sleep."""
        # Whether the ranks will sleep after the exchange that is under way is not known yet:
        # then it is this one's ``wait_for_work`` that tells the others.
        self._rung_after = self.number
        if self._sleep is not None and not self._sleep.rung.done():
            self._sleep.rung.set_result(None)
            self._tell_all()

    def _fall_asleep(self) -> _Sleep:
        at, silent = (self.epoch, self.number), tuple(self._silent)
        self._silent.clear()
        heard = start_thread("bell", self._place.listen, *at, self.rank, silent)
        # Not before its thread has ended: it would wait for a bell that was taken away.
        heard.add_done_callback(lambda _: self._silent.append(at))
        self._await_at_end(heard)
        return _Sleep(self.number, heard, asyncio.get_running_loop().create_future())

    def _get_up(self) -> None:
        """End the thread that listens, and whoever still sleeps."""
        sleep, self._sleep = self._sleep, None
        if sleep is None:
            return
        if not sleep.rung.done():
            sleep.rung.set_result(None)
        if not sleep.heard.done():
            self._ring([self.rank], sleep.number)

    def _tell_all(self) -> None:
        self._ring([rank for rank in range(self.size) if rank != self.rank], self.number)

    def _ring(self, ranks: Sequence[int], number: int) -> None:
        with suppress(RuntimeError):  # the table is gone, and with it whoever listened there
            self._place.ring(self.epoch, number, ranks)

    # Exchanges ------------------------------------------------------------------

    async def _swap(
        self, frame: Frame, words: Sequence[int], timeout_s: float
    ) -> Sequence[Sequence[int]]:
        link = self._link
        assert link is not None, "a group that has not failed is linked"
        self._rung_after = None
        self._get_up()
        until_s = time.monotonic() + timeout_s
        naming_s = min(timeout_s * _NAMING_SHARE, _MOST_NAMING_S)
        try:
            if self._left is not None:
                await self._left.event.reached(timeout_s - naming_s)
                link.finish(self._left)
            wait_s = max(until_s - naming_s - time.monotonic(), _LEAST_S)
            # torch breaks the connections when the time is over, so that whoever comes later
            # learns at once that the others have given up.
            self._left = launch = link.start(words, wait_s)
            await launch.event.reached(wait_s + _LEAST_S)
            # Complete says nothing: a dead peer completes the collective, too.
            rows = link.finish(launch)
        except (DeadlineError, RuntimeError) as error:
            if self._is_closed:
                raise RankGroupClosedError(f"{self!r} was closed during {frame}") from error
            await self._lost(frame, until_s, error)
        self._left = None
        return rows

    async def _lost(self, frame: Frame, until_s: float, cause: Exception) -> NoReturn:
        """Find out who is missing, and say so."""
        # For one who is cancelled meanwhile, and asks again.
        self._failure = RankLostError(f"{frame} failed: {cause}; rebuild the group to go on")
        self._unlink()
        now_s = time.monotonic()
        left_s = min(max(until_s - now_s, _LEAST_S), _MOST_NAMING_S)
        look_until_s = now_s + left_s * _LOOKING_SHARE
        place, epoch, number = self._place, self.epoch, frame.number
        try:
            async with asyncio.timeout(left_s):
                place.say_here(epoch, number, self.rank)
                missing = await start_thread(
                    "missing", place.missing, epoch, number, self.size, look_until_s
                )
        except (TimeoutError, RuntimeError) as error:
            self._keeper_lost(f"in {frame}", error)
        who = f"{named(missing)} did not come in time, or died"
        if not missing:
            who = f"rank {self.rank} came too late, or lost its connection: the others are there"
        raise RankLostError(
            f"{frame} failed: {who}; rebuild the group to go on", missing
        ) from cause

    def _keeper_lost(self, when: str, cause: BaseException | None) -> NoReturn:
        """Say that the process is gone that keeps the table."""
        ranks = () if self._keeper is None else (self._keeper,)
        who = "the process" if self._keeper is None else f"rank {self._keeper}"
        self._failure = error = RankLostError(
            f"{who} that keeps the table where the ranks find each other is gone or does not "
            f"answer, {when}; the group cannot be rebuilt without it, start all ranks anew",
            ranks,
        )
        raise error from cause

    def _unlink(self) -> None:
        """Let go of the process group, in a thread: that may take until its time limit."""
        self._get_up()
        link, self._link, self._left = self._link, None, None
        if link is not None:
            link.close()
            self._await_at_end(start_thread("disconnect", link.disconnect))

    def _await_at_end(self, thread: "asyncio.Future[None]") -> None:
        self._ending.add(thread)
        thread.add_done_callback(self._ending.discard)

    # Beginning and end ------------------------------------------------------------

    async def connect(self, timeout_s: float) -> None:
        """Join the group: meet all its ranks, and link up with them; once."""
        until_s = time.monotonic() + timeout_s
        try:
            async with asyncio.timeout(timeout_s + _MARGIN_S):
                await start_thread("join", self._place.join, self.rank, self.size, until_s)
                self._link = await self._open(0, self.rank, self.size, timeout_s)
        except AioSchedError:
            raise
        except (TimeoutError, RuntimeError) as error:
            self._keeper_lost(f"while rank {self.rank} joined", error)

    async def aclose(self) -> None:
        """Leave the group; an exchange that is under way fails, here and on other ranks."""
        self._is_closed = True
        self._unlink()
        with suppress(RuntimeError):  # the table is gone: nothing can be rebuilt
            self._place.say_gone(self.epoch, self.rank)
        if self._ending:  # a process that ends meanwhile is aborted
            await asyncio.wait(set(self._ending), timeout=_ENDING_S)

    async def _regroup(self, timeout_s: float) -> tuple[int, int, int]:
        if self._is_left_behind:  # to ask once more would split the group
            raise left_behind(self.rank, self.epoch)
        self._ring(range(self.size), self.number)
        self._unlink()
        try:
            # The table answers at once, whoever is missing, or not at all.
            async with asyncio.timeout(timeout_s + _MARGIN_S):
                members = await start_thread("rally", self._rally, time.monotonic() + timeout_s)
        except (TimeoutError, RuntimeError) as error:
            self._keeper_lost("when the ranks were to meet", error)
        if len(members) < self._min_size:
            raise too_few(len(members), self.size, self._min_size, timeout_s)
        if self.rank not in members:
            self._is_left_behind = True
            raise left_behind(self.rank, self.epoch)
        rank, size = members.index(self.rank), len(members)
        self._link = await self._open(self._last_epoch, rank, size, timeout_s)
        if self._is_closed:
            self._unlink()
        self._check_open()
        self._keeper = members.index(self._keeper) if self._keeper in members else None
        return self._last_epoch, rank, size

    def _rally(self, until_s: float) -> list[int]:
        """Meet the ranks of the next epoch; of a later one if others failed to begin that."""
        while True:
            self._last_epoch += 1
            members = self._place.rally(self.epoch, self._last_epoch, self.rank, self.size, until_s)
            enough = len(members) >= self._min_size
            if enough or self.rank in members or time.monotonic() >= until_s:
                return members

    async def _open(self, epoch: int, rank: int, size: int, timeout_s: float) -> Link:
        def connect() -> Link:
            return open_link(self._device, self._place.link_store(epoch), rank, size, timeout_s)

        try:
            return await start_thread("link", connect)
        except RuntimeError as error:
            raise RankLostError(
                f"{size} ranks met for epoch {epoch}, and rank {rank} could not connect to all of "
                f"them within {timeout_s:g} s: {error}; rebuild the group once more"
            ) from error
