"""Host memory that copies to the device read from, not rewritten while they do."""

import reprlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from buffers.errors import DtypeError, ShapeError, StagingBusyError, StagingReleasedError
from streams.device import Device
from streams.event import Event
from streams.hazards.tasks import handoff
from streams.launch import Launch
from streams.monitor import host_writes
from streams.stream import Stream

__all__ = ["StagingRing", "StagingSlot"]


class StagingRing:
    """A few blocks of host memory, page-locked where the device needs it.

    A copy to the device reads its block some time after it was enqueued. A block is
    therefore claimed again only when the event of its last copy has completed, on the
    CPU device too, whose workers read it as late.

    The ring does not grow: allocating page-locked memory may block the host for
    milliseconds. With uploads of at most ``k`` blocks per step and ``d`` steps in
    flight, a depth of ``k * (d + 1)`` never runs out. If it does, ``await slot()``
    suspends until a block is free, and ``upload`` raises at once; whether it does
    depends on the device's timing, so an issuer whose calls must not uses ``slot()``.

    Args:
        device: where the copies go.
        shape: of a block, and of the largest upload; () is a number.
        dtype: of its elements.
        depth: blocks.
        name: names it in errors.

    Raises:
        ValueError: no blocks.
        ShapeError: blocks without elements.
    """

    def __init__(
        self,
        device: Device,
        shape: Sequence[int],
        dtype: torch.dtype,
        *,
        depth: int = 3,
        name: str = "staging",
    ) -> None:
        if depth < 1:
            raise ValueError(f"depth={depth} of ring {name!r} is not positive")
        if any(size < 1 for size in shape):
            raise ShapeError(f"shape {tuple(shape)} of ring {name!r} has a size below 1")
        self.device = device
        self.shape = tuple(shape)
        self.dtype = dtype
        self.name = name
        self._blocks = [_Block(device, self.shape, dtype) for _ in range(depth)]

    def __repr__(self) -> str:
        num_claimed = sum(block.is_claimed for block in self._blocks)
        return (
            f"<StagingRing {self.name!r}: {len(self._blocks)} blocks of {self.shape} {self.dtype}, "
            f"{num_claimed} claimed>"
        )

    @property
    def num_free(self) -> int:
        """Blocks that could be claimed now.

        Raises:
            DeviceLostError: the device failed for good.
            DeviceClosedError: the device was closed under a copy.
        """
        return sum(block.is_free() for block in self._blocks)

    def upload(self, stream: Stream, values: Tensor | Sequence[Any]) -> Launch[Tensor]:
        """Copy host values into a block, and enqueue its copy to the device.

        Enqueues on ``stream``. ``values`` are read before this returns. The device
        tensor is complete at the launch's event and belongs to whoever takes it.

        Args:
            stream: where the copy to the device runs.
            values: of the ring's dtype if a tensor; at most its shape in the first
                dimension, and exactly in the others.

        Returns:
            A launch that gives the tensor on the device.

        Raises:
            StagingBusyError: no block is free.
            DtypeError: a tensor of another dtype, or a sequence that does not make one.
            ShapeError: values that do not fit, or are not on the host.
        """
        host = self._as_host(values)
        num_rows = host.shape[0] if self.shape else None
        with self.take() as slot:
            _first_rows(slot.host, num_rows).copy_(host)
            return slot.upload(stream, num_rows)

    def take(self) -> "StagingSlot":
        """Claim a free block.

        Raises:
            StagingBusyError: none is free.
            DeviceLostError: the device failed for good.
            DeviceClosedError: the device was closed under a copy.
        """
        slot = self._take_free()
        if slot is None:
            raise StagingBusyError(
                f"all {len(self._blocks)} blocks of ring {self.name!r} are claimed or being "
                "copied from; await slot(), or make the ring deeper"
            )
        return slot

    async def slot(self) -> "StagingSlot":
        """Claim a free block, or suspend until the oldest copy has completed.

        Raises:
            StagingBusyError: all blocks are claimed and none is being copied from, so
                that waiting would never end.
            DeviceLostError: the device failed for good.
            DeviceClosedError: the device was closed.
        """
        while (slot := self._take_free()) is None:
            await self._oldest_copy().reached()
        return slot

    def _take_free(self) -> "StagingSlot | None":
        for number, block in enumerate(self._blocks):
            if block.is_free():
                # To the end, so that the blocks in front are the ones used longest ago.
                self._blocks.append(self._blocks.pop(number))
                return StagingSlot(self, block)
        return None

    def _oldest_copy(self) -> Event:
        for block in self._blocks:
            if block.copied is not None and not block.is_claimed:
                return block.copied
        raise StagingBusyError(
            f"all {len(self._blocks)} blocks of ring {self.name!r} are claimed and none is being "
            "copied from; upload them or give them back before claiming more"
        )

    def _as_host(self, values: Tensor | Sequence[Any]) -> Tensor:
        if not isinstance(values, Tensor):
            values = self._as_tensor(values)
        if values.dtype != self.dtype:
            raise DtypeError(
                f"ring {self.name!r} stages {self.dtype} and got {values.dtype}; "
                f"convert the values with .to({self.dtype})"
            )
        fits = values.dim() == len(self.shape) and values.shape[1:] == self.shape[1:]
        if not fits or (self.shape and values.shape[0] > self.shape[0]):
            raise ShapeError(
                f"ring {self.name!r} stages up to {self.shape} and got {tuple(values.shape)}; "
                "split the upload, or make the ring with a larger shape"
            )
        if values.device.type != "cpu":
            raise ShapeError(
                f"ring {self.name!r} stages host values and got a tensor on {values.device}; "
                "copy on the device instead"
            )
        return values.detach()

    def _as_tensor(self, values: Sequence[Any]) -> Tensor:
        try:
            return torch.tensor(values, dtype=self.dtype, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise DtypeError(
                f"ring {self.name!r} stages {self.dtype} and got {reprlib.repr(values)}: {error}; "
                "give numbers of that type, in rows of one length"
            ) from error


class StagingSlot:
    """A claimed block: write into ``host``, then ``upload``; or give it back.

    As a context manager it gives the block back at the end of the block if it was not
    uploaded.
    """

    def __init__(self, ring: StagingRing, block: "_Block") -> None:
        handoff(block)
        block.is_claimed = True
        self._ring = ring
        self._block: _Block | None = block

    def __repr__(self) -> str:
        return f"<StagingSlot of {self._ring.name!r}{'' if self._block else ' released'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.give_back()

    @property
    def host(self) -> Tensor:
        """The memory to write into, until ``upload`` or ``give_back``.

        Raises:
            StagingReleasedError: it was uploaded or given back.
        """
        block = self._claimed()
        # For checkers: the last copy from this memory is over, as is_free() has made sure.
        host_writes(self._ring.device, block.memory)
        return block.memory

    def upload(self, stream: Stream, num_rows: int | None = None) -> Launch[Tensor]:
        """Enqueue the copy to the device, and let go of the block.

        Args:
            stream: where the copy runs.
            num_rows: copy only so many rows from the start; all by default.

        Returns:
            A launch that gives a tensor on the device, of its own memory.

        Raises:
            StagingReleasedError: it was uploaded or given back.
            ShapeError: the block has not so many rows.
        """
        block = self._claimed()
        source = _first_rows(block.memory, num_rows)
        launch = stream.launch(stage_copy, source, self._ring.device, reads=(source,))
        block.copied = launch.event
        self.give_back()
        return launch

    def give_back(self) -> None:
        """Let go of the block; doing it twice does no harm."""
        if self._block is not None:
            handoff(self._block)
            self._block.is_claimed = False
            self._block = None

    def _claimed(self) -> "_Block":
        if self._block is None:
            raise StagingReleasedError(
                f"this slot of ring {self._ring.name!r} was uploaded or given back, and a copy or "
                "another owner uses its memory; claim another with slot()"
            )
        return self._block


class _Block:
    """Memory, and who may still use it: a claim, or the copy that ends at ``copied``."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        pin = device.capabilities.pinned_memory
        self.memory = torch.empty(shape, dtype=dtype, device="cpu", pin_memory=pin)
        self.copied: Event | None = None
        self.is_claimed = False

    def is_free(self) -> bool:
        # WAR: the next claim rewrites memory that the last copy may still read.
        return not self.is_claimed and (self.copied is None or self.copied.query())


def stage_copy(source: Tensor, device: Device) -> Tensor:
    """Issue a copy from a block to new memory of the device, on the current stream."""
    return source.to(device.torch_device, non_blocking=True, copy=True)


def _first_rows(memory: Tensor, num_rows: int | None) -> Tensor:
    if num_rows is None:
        return memory
    size = memory.shape[0] if memory.dim() else 0
    if not 0 <= num_rows <= size:
        raise ShapeError(f"num_rows={num_rows} of a staging block that has {size}")
    return memory[:num_rows]
