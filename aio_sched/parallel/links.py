"""Links: a process group and the tensors that it carries, always chosen together.

A group for the host given device tensors, or the other way round, fails at the first exchange
at best. So there is one place that makes either, and nobody else names a backend.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import Store, distributed_c10d  # type: ignore[attr-defined]  # documented, not re-exported

from aio_sched.parallel.errors import RankGroupMissingError
from aio_sched.parallel.frames import FRAME_WORDS
from aio_sched.parallel.works import WorkDevice
from streams import Device, Launch, Platform, Stream

__all__ = ["Link", "check_link", "open_link"]

_numbers = itertools.count()
_NCCL_PLATFORMS = (Platform.CUDA, Platform.ROCM)


def check_link(device: Device | None) -> None:
    """Raise unless ranks can be linked through ``device``; None is the host.

    Raises:
        RankGroupMissingError: torch has no collectives for it here.
    """
    if device is None:
        if not dist.is_gloo_available():
            raise RankGroupMissingError("this build of torch has no gloo; use another")
        return
    if device.platform not in _NCCL_PLATFORMS or not dist.is_nccl_available():
        raise RankGroupMissingError(
            f"ranks cannot be linked through device {device.name}: that takes NCCL; use the host "
            "group, that is, device=None"
        )


def open_link(
    device: Device | None, store: Store, rank: int, size: int, timeout_s: float
) -> "Link":
    """Connect to the other ranks; blocks until they have come, or ``timeout_s`` is over.

    Args:
        device: whose collectives and memory to use; None: the host's (gloo).
        store: where the ranks find each other; used by no other group.
        rank: this one's number.
        size: ranks in the group.
        timeout_s: also what torch lets an operation take that has no deadline of its own.

    Raises:
        RuntimeError: torch could not connect.
    """
    time_limit = timedelta(seconds=timeout_s)
    if device is None:
        return _HostLink(dist.ProcessGroupGloo(store, rank, size, time_limit), size)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = time_limit
    return _DeviceLink(dist.ProcessGroupNCCL(store, rank, size, options), device, size)


class Link(ABC):
    """A process group, and the tensors that its collectives read and write.

    The tensors belong to one exchange at a time. They are made outside of inference mode, which
    gloo's collectives do not take.

    Attributes:
        stream: where an exchange is put, and what it is awaited on.
    """

    stream: Stream

    @abstractmethod
    def start(self, words: Sequence[int], timeout_s: float) -> Launch[Any]:
        """Give ``words`` to all ranks; enqueues on ``stream`` and does not wait.

        Args:
            words: ``FRAME_WORDS`` integers.
            timeout_s: after which the collective breaks, and the group with it.
        """

    @abstractmethod
    def finish(self, launch: Launch[Any]) -> list[list[int]]:
        """Return what came, ``size`` rows of ``FRAME_WORDS``, of a launch that is complete.

        Raises:
            RuntimeError: it was broken, by a dead peer or by the time limit.
        """

    @abstractmethod
    def close(self) -> None:
        """Fail who still waits; does not block."""

    @abstractmethod
    def disconnect(self) -> None:
        """End the connections; may block until an operation's time is over. Last of all."""


class _HostLink(Link):
    """gloo, and tensors of the host."""

    def __init__(self, group: Any, size: int) -> None:  # Any: torch types no collectives of it
        self._group = group
        self._work: Any = None  # the last exchange's
        self._device = WorkDevice()
        self.stream = self._device.stream("ranks")
        with torch.inference_mode(False):
            self._given = torch.zeros(FRAME_WORDS, dtype=torch.int64)
            self._taken = torch.zeros((size, FRAME_WORDS), dtype=torch.int64)
            self._rows = [list(self._taken.unbind())]

    def start(self, words: Sequence[int], timeout_s: float) -> Launch[Any]:
        self._given.copy_(torch.tensor(words, dtype=torch.int64))
        return self.stream.launch(self._gather, timedelta(seconds=timeout_s))

    def finish(self, launch: Launch[Any]) -> list[list[int]]:
        launch.result()
        self._work.wait()
        rows: list[list[int]] = self._taken.tolist()
        return rows

    def close(self) -> None:
        self._device.close()

    def disconnect(self) -> None:
        # The one way to end gloo's threads and connections is to let go of all that holds them:
        # then the others learn at once that this rank has given up.
        self._work = self._group = None

    def _gather(self, time_limit: timedelta) -> Any:  # a Work
        # Public in torch's C++, and in none of its lists of names.
        options = distributed_c10d.AllgatherOptions()  # type: ignore[attr-defined]
        options.timeout = time_limit
        self._work = self._group.allgather(self._rows, [self._given], options)
        return self._work


class _DeviceLink(Link):
    """NCCL, and tensors of a device, on a device stream of its own."""

    def __init__(self, group: Any, device: Device, size: int) -> None:  # Any: as above
        self._group = group
        self.stream = device.stream(f"ranks-{next(_numbers)}")
        on = device.torch_device
        with torch.inference_mode(False):
            self._given = torch.zeros(FRAME_WORDS, dtype=torch.int64, device=on)
            self._taken = torch.zeros((size, FRAME_WORDS), dtype=torch.int64, device=on)
            self._host_given = torch.zeros(FRAME_WORDS, dtype=torch.int64).pin_memory()
            self._host_taken = torch.zeros((size, FRAME_WORDS), dtype=torch.int64).pin_memory()
            self._rows = [list(self._taken.unbind())]
        # NCCL connects at the first collective, which takes seconds: here, not on the loop.
        self._group.allgather(self._rows, [self._given]).wait()
        torch.accelerator.current_stream(on).synchronize()

    def start(self, words: Sequence[int], timeout_s: float) -> Launch[Any]:
        self._host_given.copy_(torch.tensor(words, dtype=torch.int64))
        return self.stream.launch(self._gather)

    def finish(self, launch: Launch[Any]) -> list[list[int]]:
        launch.result()
        rows: list[list[int]] = self._host_taken.tolist()
        return rows

    def close(self) -> None:
        self.stream.close()

    def disconnect(self) -> None:
        self._group.abort()  # a kernel that waits for a dead peer never ends by itself
        self._group = None

    def _gather(self) -> None:
        self._given.copy_(self._host_given, non_blocking=True)
        # The device's wait, not the host's: work that follows on this stream comes behind it.
        self._group.allgather(self._rows, [self._given]).wait()
        self._host_taken.copy_(self._taken, non_blocking=True)
