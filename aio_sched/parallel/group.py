"""``RankGroup``: what the ranks of a service exchange, awaited without blocking the loop."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

__all__ = ["RankGroup"]


class RankGroup(ABC):
    """Ranks that exchange a few integers per step.

    One exchange is under way at a time. Each rank of the group must take part in the same
    exchanges in the same order: whether to make one may depend on gathered data only.

    All methods belong to the thread of the loop in which the group was made.

    Attributes:
        rank: this one's number, 0 to ``size - 1``.
        size: ranks in the group.
        epoch: 0, and one more each time the group is rebuilt after a failure.
        timeout_s: seconds that an exchange may take where its caller does not say.
    """

    rank: int
    size: int
    epoch: int
    timeout_s: float

    @abstractmethod
    async def gather_info(
        self, kind: str, values: Sequence[int], *, timeout: float | None = None
    ) -> tuple[tuple[int, ...], ...]:
        """Give this rank's integers to all, and wait for those of all ranks.

        The frame that travels has a fixed size and says its kind, epoch and number, so that
        ranks that do not do the same learn it at once. Whoever is not there in time fails the
        exchange for all: after an error the group is of no use until it is rebuilt.

        A cancelled caller leaves the exchange under way: what it gave reaches the other ranks,
        and the next exchange begins when that one has ended. Whoever is cancelled once more while
        the next one waits for that has given nothing: the one after fails for all ranks.

        Args:
            kind: what the integers are, a short name (at most ``MAX_KIND`` ASCII characters);
                the same on every rank.
            values: at most ``MAX_VALUES`` integers of 64 bits; as many on every rank.
            timeout: seconds to wait for the other ranks; by default the group's own deadline.

        Returns:
            The integers of each rank, by rank.

        Raises:
            RankLostError: a rank is gone, or did not come in time; names rank and exchange.
            RankMismatchError: a rank sent another kind, epoch, number or count.
            RankBusyError: an exchange is under way already.
            RankGroupClosedError: the group is closed, or failed before and was not rebuilt.
            ValueError: the kind is no short name, there are too many values, one is too large,
                or the timeout is not positive.
            TypeError: a value is no Python integer, a tensor above all.
        """

    @abstractmethod
    async def wait_for_work(self) -> None:
        """Sleep until a rank rings, this one included; costs nothing meanwhile.

        For when gathered data say that no rank has work: each rank then sleeps here, instead
        of making one exchange after the other. Returns at once if a rank has rung since the
        last exchange began; a caller who was cancelled can come back. It is advisory: it may
        return without a reason, and what there is to do is decided by the exchange that follows.

        Raises:
            RankLostError: the rank that carries the bell is gone. Others that die are found by
                the next exchange.
            RankGroupClosedError: the group is closed, also meanwhile, or failed before.
        """

    @abstractmethod
    def ring(self) -> None:
        """Wake the ranks that sleep in ``wait_for_work``; call it whenever work arrives.

        Never waits and never raises; on a group that is closed or has failed it does nothing.
        """

    @abstractmethod
    async def rebuild(self, *, timeout: float | None = None) -> None:
        """Begin anew with the ranks that are there, under the next epoch.

        For after a failure; each rank that still runs must call it. Returns as soon as all have
        come that may come, and otherwise when the time of the first who came is over. Ranks keep
        their order and get new numbers without gaps; exchanges are counted anew.

        Args:
            timeout: seconds to wait for the other ranks; by default the group's own deadline.

        Raises:
            RankLostError: fewer ranks came than the group may have, or the others went on
                without this one.
            RankGroupClosedError: the group is closed.
            ValueError: the timeout is not positive.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Leave the group; an exchange that is under way fails, here and on other ranks."""
