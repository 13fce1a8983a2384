"""``RankGroup``: what the ranks of a service exchange, awaited without blocking the loop."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

__all__ = ["RankGroup"]


class RankGroup(ABC):
    """Ranks that exchange a few integers per step.

    One exchange is under way at a time. Each rank of the group must take part in the same
    exchanges in the same order: whether to make one may depend on gathered data only.

    Attributes:
        rank: this one's number, 0 to ``size - 1``.
        size: ranks in the group.
        epoch: 0, and one more each time the group is rebuilt after a failure.
    """

    rank: int
    size: int
    epoch: int

    @abstractmethod
    async def gather_info(
        self, kind: str, values: Sequence[int], *, timeout: float | None = None
    ) -> tuple[tuple[int, ...], ...]:
        """Give this rank's integers to all, and wait for those of all ranks.

        The frame that travels has a fixed size and says its kind, epoch and number, so that
        ranks that do not do the same learn it at once.

        Args:
            kind: what the integers are, one of a few short names; the same on every rank.
            values: at most ``MAX_VALUES`` integers of 64 bits; as many on every rank.
            timeout: seconds to wait for the other ranks; by default the group's own deadline.

        Returns:
            The integers of each rank, by rank.

        Raises:
            RankLostError: a rank is gone, or did not come in time; names rank and exchange.
            RankMismatchError: a rank sent another kind, epoch, number or count.
            RankBusyError: an exchange is under way already.
            RankGroupClosedError: the group is closed, or failed before and was not rebuilt.
        """

    @abstractmethod
    async def rebuild(self, *, timeout: float | None = None) -> None:
        """Begin anew with the ranks that are there, under the next epoch.

        For after a failure; each rank that still runs must call it. Ranks keep their order and
        get new numbers without gaps.

        Raises:
            RankLostError: fewer ranks came than the group may have.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Leave the group; an exchange that is under way fails, here and on other ranks."""
