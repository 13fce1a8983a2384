"""What can go wrong between ranks."""

from streams.errors import AioSchedError

__all__ = [
    "FrameError",
    "RankBusyError",
    "RankGroupClosedError",
    "RankGroupMissingError",
    "RankLostError",
    "RankMismatchError",
]


class RankLostError(AioSchedError, RuntimeError):
    """Ranks are gone, or did not come in time; the group must be rebuilt without them.

    Attributes:
        ranks: those that are missing, by their number in the epoch of the failure; empty where
            nobody can tell which.
    """

    def __init__(self, message: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks


class RankMismatchError(AioSchedError, RuntimeError):
    """Ranks do not do the same: another kind of exchange, epoch, number, size or count.

    Attributes:
        ranks: those that differ from this one, or those that are not as they should be.
    """

    def __init__(self, message: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks


class FrameError(RankMismatchError):
    """What came from a rank is no frame of this version of the library, or was damaged."""


class RankBusyError(AioSchedError, RuntimeError):
    """An exchange of this rank is under way already."""


class RankGroupClosedError(AioSchedError, RuntimeError):
    """The group is closed, or failed before and was not rebuilt."""


class RankGroupMissingError(AioSchedError, RuntimeError):
    """The kind of group that was asked for was not given, or this machine has none."""
