"""What every rank group does alike: one exchange at a time, frames, and what follows a failure."""

from abc import abstractmethod
from collections.abc import Sequence

from aio_sched.parallel.errors import (
    RankBusyError,
    RankGroupClosedError,
    RankLostError,
    RankMismatchError,
)
from aio_sched.parallel.frames import Frame, verify
from aio_sched.parallel.group import RankGroup

__all__ = ["FramedGroup", "check_timeout", "left_behind", "named", "too_few"]


class FramedGroup(RankGroup):
    """A rank group that makes frames, checks them, and keeps count; transports derive from it.

    Attributes:
        rank: see ``RankGroup``, like the others.
        number: of the exchange that began last in this epoch; 0 before the first.
    """

    def __init__(self, rank: int, size: int, timeout_s: float) -> None:
        self.rank = rank
        self.size = size
        self.epoch = 0
        self.timeout_s = check_timeout(timeout_s)
        self.number = 0
        self._is_busy = False
        self._is_closed = False
        self._failure: Exception | None = None

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "failed" if self._failure else "open"
        return (
            f"<{type(self).__name__} rank {self.rank} of {self.size}, epoch {self.epoch}, "
            f"{self.number} exchanges: {state}>"
        )

    async def gather_info(
        self, kind: str, values: Sequence[int], *, timeout: float | None = None
    ) -> tuple[tuple[int, ...], ...]:
        """Give this rank's integers to all, and wait for those of all ranks."""
        timeout_s = self.timeout_s if timeout is None else check_timeout(timeout)
        self._check_usable()
        self._take_turn(f"an exchange of {kind!r}")
        try:
            frame = Frame(kind, self.epoch, self.number + 1, self.rank, self.size, tuple(values))
            words = frame.encode()
            self.number += 1
            return verify(frame, await self._swap(frame, words, timeout_s))
        except (RankLostError, RankMismatchError) as error:
            self._failure = error
            raise
        finally:
            self._is_busy = False

    async def rebuild(self, *, timeout: float | None = None) -> None:
        """Begin anew with the ranks that are there, under the next epoch."""
        timeout_s = self.timeout_s if timeout is None else check_timeout(timeout)
        self._check_open()
        self._take_turn("a rebuild")
        try:
            self._failure = RankGroupClosedError(f"{self!r} was not rebuilt to the end")
            self.epoch, self.rank, self.size = await self._regroup(timeout_s)
            self.number, self._failure = 0, None
        finally:
            self._is_busy = False

    @abstractmethod
    async def _swap(
        self, frame: Frame, words: Sequence[int], timeout_s: float
    ) -> Sequence[Sequence[int]]:
        """Give ``words`` to all ranks, and return those of each, by rank.

        Raises:
            RankLostError: a rank is gone, or did not come in time.
            RankGroupClosedError: the group was closed meanwhile.
        """

    @abstractmethod
    async def _regroup(self, timeout_s: float) -> tuple[int, int, int]:
        """Meet the ranks that still run; return the new epoch, rank and size.

        Raises:
            RankLostError: too few came, or the others went on before.
        """

    def _take_turn(self, what: str) -> None:
        if self._is_busy:
            raise RankBusyError(
                f"{what} was begun on {self!r} while another is under way; await that one first, "
                "or use a group of its own for each purpose"
            )
        self._is_busy = True

    def _check_open(self) -> None:
        if self._is_closed:
            raise RankGroupClosedError(f"{self!r} was closed; open another one")

    def _check_usable(self) -> None:
        self._check_open()
        if self._failure is not None:
            raise RankGroupClosedError(
                f"{self!r} failed before and must be rebuilt: {self._failure}"
            ) from self._failure


def check_timeout(timeout_s: float) -> float:
    """Return a number of seconds that somebody may be waited for.

    Raises:
        ValueError: not positive, or not finite.
    """
    if not 0 < timeout_s < float("inf"):
        raise ValueError(
            f"timeout {timeout_s} is no time to wait for other ranks; use a positive number of "
            "seconds"
        )
    return float(timeout_s)


def named(ranks: Sequence[int]) -> str:
    """Return "rank 1" or "ranks 1, 2"."""
    return f"rank{'s' if len(ranks) != 1 else ''} {', '.join(map(str, ranks))}"


def too_few(num_came: int, size: int, min_size: int, timeout_s: float) -> RankLostError:
    """Make the error of a rebuild to which not enough ranks came."""
    return RankLostError(
        f"{num_came} of {size} ranks came to rebuild the group within {timeout_s:g} s, and it "
        f"needs {min_size}; start the missing ones anew, and then all of them"
    )


def left_behind(rank: int, epoch: int) -> RankLostError:
    """Make the error of a rank that comes when the others went on."""
    return RankLostError(
        f"rank {rank} of epoch {epoch} was missing at a rebuild, and the others went on without "
        "it; end this process and start it anew",
        (rank,),
    )
