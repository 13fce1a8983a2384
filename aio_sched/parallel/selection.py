"""Which group the ranks of a service exchange through: the host's, the device's, or none."""

from typing import Literal

from aio_sched.parallel.errors import RankGroupMissingError
from aio_sched.parallel.group import RankGroup

__all__ = ["RankSync", "choose_group"]

#: ``"host"`` and ``"device"`` name a group; ``"skip"`` means that ranks do not exchange anything.
RankSync = Literal["host", "device", "skip"]


def choose_group(
    rank_sync: RankSync = "host",
    *,
    overlap: bool = True,
    host: RankGroup | None = None,
    device: RankGroup | None = None,
) -> RankGroup | None:
    """Return the group through which ranks gather what they decide from.

    The device's group if it is asked for, or if the loop does not overlap: then the device is
    waited for anyway, and its network is the faster one. Else the host's, which leaves the
    device alone. Every rank must choose alike.

    Args:
        rank_sync: what the configuration says.
        overlap: whether the scheduler overlaps steps.
        host: the group over the host's network, if there is one.
        device: the group over the device's network, if there is one.

    Returns:
        The group; None for ``"skip"``.

    Raises:
        RankGroupMissingError: the group that must be used was not given.
        ValueError: ``rank_sync`` is none of the three.
    """
    if rank_sync not in ("host", "device", "skip"):
        raise ValueError(f"rank_sync={rank_sync!r} is unknown; use 'host', 'device' or 'skip'")
    if rank_sync == "skip":
        return None
    if rank_sync == "device" or not overlap:
        if device is None:
            raise RankGroupMissingError(
                f"rank_sync={rank_sync!r} with overlap={overlap} takes the device's group, and "
                "there is none; open one with open_rank_group(device=...), or use "
                "rank_sync='host' with overlap=True"
            )
        return device
    if host is None:
        raise RankGroupMissingError(
            "rank_sync='host' takes the host's group, and there is none; open one with "
            "open_rank_group(), or use rank_sync='device'"
        )
    return host
