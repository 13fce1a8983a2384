"""``open_rank_group``: how a process becomes a rank."""

import os
from typing import TYPE_CHECKING

import torch.distributed as dist

from aio_sched.parallel.errors import RankGroupMissingError, RankLostError, RankMismatchError
from aio_sched.parallel.exchange import check_timeout
from aio_sched.parallel.group import RankGroup
from aio_sched.parallel.threads import start_thread
from streams import Device

if TYPE_CHECKING:
    from aio_sched.parallel.meeting_place import MeetingPlace

__all__ = ["open_rank_group"]


async def open_rank_group(
    *,
    rank: int | None = None,
    size: int | None = None,
    address: str | None = None,
    name: str = "default",
    device: Device | None = None,
    timeout_s: float = 5.0,
    join_timeout_s: float = 60.0,
    min_size: int = 1,
) -> RankGroup:
    """Join a group of processes, and wait until all of its ranks have come.

    Without arguments from what ``torchrun`` sets: ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and
    ``MASTER_PORT``. torch's own default process group is neither used nor needed.

    Args:
        rank: this process's number.
        size: ranks that the group shall have.
        address: ``"host:port"`` where rank 0 listens, unless torchrun's agent does.
        name: ranks of one name form a group; a process may be in several.
        device: whose collectives and memory to use; None: those of the host (gloo).
        timeout_s: seconds that an exchange may take where its caller does not say. The last
            quarter of it, half a second at most, is for finding out who is missing.
        join_timeout_s: seconds to wait for all ranks to join.
        min_size: fewest ranks that a rebuild goes on with.

    Raises:
        RankLostError: some ranks did not join in time.
        RankMismatchError: ranks do not agree on the size, one is there twice, or torchrun
            started another number of them.
        RankGroupMissingError: torch has no collectives for the device here.
        ValueError: an argument is out of range, or neither given nor in the environment.
    """
    if not dist.is_available():
        raise RankGroupMissingError("this build of torch has no torch.distributed; use another")
    # Not at the top: where torch has none, the package must still be importable.
    from aio_sched.parallel.distributed import TorchRankGroup
    from aio_sched.parallel.links import check_link

    check_link(device)
    check_timeout(timeout_s)
    rank, size, host, port = _whereabouts(rank, size, address)
    if not 0 <= rank < size or not 1 <= min_size <= size:
        raise ValueError(
            f"rank={rank}, size={size}, min_size={min_size}: use 0 <= rank < size and "
            "1 <= min_size <= size"
        )
    has_agent = address is None and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    keeper = None if has_agent else 0
    place = await _find(host, port, name, rank, keeper, check_timeout(join_timeout_s))
    group = TorchRankGroup(
        place, rank, size, keeper=keeper, device=device, timeout_s=timeout_s, min_size=min_size
    )
    await group.connect(join_timeout_s)
    return group


async def _find(
    host: str, port: int, name: str, rank: int, keeper: int | None, timeout_s: float
) -> "MeetingPlace":
    from aio_sched.parallel.meeting_place import MeetingPlace

    def find() -> MeetingPlace:
        return MeetingPlace(host, port, name, keeps=rank == keeper, timeout_s=timeout_s)

    try:
        return await start_thread("find", find)
    except RuntimeError as error:
        who = "the launcher's agent" if keeper is None else f"rank {keeper}"
        raise RankLostError(
            f"rank {rank} could not meet the others at {host}:{port} within {timeout_s:g} s, where "
            f"{who} should listen: {error}",
            () if keeper is None else (keeper,),
        ) from error


def _whereabouts(
    rank: int | None, size: int | None, address: str | None
) -> tuple[int, int, str, int]:
    """Return rank, size, host and port, from the arguments or else from the environment."""
    started = os.environ.get("WORLD_SIZE")
    if address is None and size is not None and started is not None and int(started) != size:
        raise RankMismatchError(
            f"a group of {size} ranks was asked for, and the launcher started {started}; run it "
            f"with --nproc-per-node={size}, or ask for {started}"
        )
    rank = _number("RANK", "rank") if rank is None else rank
    size = _number("WORLD_SIZE", "size") if size is None else size
    if address is None:
        return rank, size, _setting("MASTER_ADDR", "address"), _number("MASTER_PORT", "address")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"address {address!r} is not of the form host:port")
    return rank, size, host, int(port)


def _number(variable: str, argument: str) -> int:
    value = _setting(variable, argument)
    if not value.isdigit():
        raise ValueError(f"the environment has {variable}={value!r}, which is no number")
    return int(value)


def _setting(variable: str, argument: str) -> str:
    value = os.environ.get(variable)
    if value is None:
        raise ValueError(
            f"the environment has no {variable}; start the ranks with torchrun, or pass {argument}="
        )
    return value
