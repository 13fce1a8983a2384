"""Device rows that carry the results of one step to the next, without the host."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from buffers.access import Access
from buffers.fields import FieldSpec
from buffers.host_mirror import HostMirror
from buffers.row_memory import RowMemory
from buffers.row_order import RowOrder
from buffers.rows import RowUse, Slots, Use, as_rows, index_of
from buffers.slots import SlotAllocator
from buffers.transfer import to_device
from streams.device import Device
from streams.event import Event
from streams.launch import Launch
from streams.stream import Stream

__all__ = ["RelayBuffer"]

T = TypeVar("T")


class RelayBuffer:
    """Rows on the device, indexed by request slot; row 0 belongs to padding.

    A step *stashes* payloads and *publishes* values into the rows of its requests, and
    the next step *gathers* them, or *resolves* a copy on the host. The launch-level
    verbs ``stash``, ``publish`` and ``gather`` enqueue one launch each. A model that
    reads and writes rows inside a launch of its own calls ``gather_rows`` and
    ``stash_rows`` there, and enqueues it with ``launch``, which is told the slots.

    Either way, uses of the same row of the same field on different device streams are
    ordered on the device: a read waits for the event of the last write (for a
    published row, the publish event), a write for the events of the last reads.
    A gather whose rows a failed launch should have written fails with its error.

    In strict mode a gather consumes: the rows are filled with poison (-1, 255, NaN;
    bool has none), and reading a row that holds nothing new, or that was written for
    another owner of the slot, is an error. Give ``Slot`` objects there: a plain row
    number states no generation, so its owner is not checked.

    Blocks the thread until its memory is filled: make it at set-up. Calls must come
    from one thread, the one that issues device work.

    Args:
        device: where the rows live.
        num_slots: slots that may be used, 1 to ``num_slots``; there is one row more.
        fields: name of each field, with a dtype (rows of one number) or a ``FieldSpec``.
        strict: see above; costs a fill per gather and checks per row.
        needs_host_values: False if nothing resolves; then ``resolve`` gives None.
        name: names it in errors, traces and reported hazards; unique on its device if
            it is resolved.

    Raises:
        ValueError: no slots, or no fields.
        DtypeError: a field has a dtype that rows cannot have.
    """

    def __init__(
        self,
        device: Device,
        num_slots: int,
        fields: Mapping[str, FieldSpec | torch.dtype],
        *,
        strict: bool = False,
        needs_host_values: bool = True,
        name: str = "relay",
    ) -> None:
        if num_slots < 1 or not fields:
            raise ValueError(
                f"relay {name!r} has {num_slots} slots and fields {list(fields)}; "
                "give it at least one of each"
            )
        self.device = device
        self.num_slots = num_slots
        self.name = name
        self.strict = strict
        self._needs_host_values = needs_host_values
        self._memory = RowMemory(device, num_slots + 1, fields, strict=strict, name=name)
        self._order = RowOrder(device, name, self._memory.tensors, strict=strict)

    def __repr__(self) -> str:
        return (
            f"<RelayBuffer {self.name!r} on {self.device.name}: {self.num_slots} slots of "
            f"{', '.join(self.specs)}{', strict' if self.strict else ''}>"
        )

    @property
    def specs(self) -> Mapping[str, FieldSpec]:
        """What each field holds."""
        return self._memory.specs

    @property
    def published(self) -> Event | None:
        """The event of the latest publish, None before the first."""
        return self._order.published

    @cached_property
    def mirror(self) -> HostMirror:
        """The host's copy of all fields; opened when first asked for."""
        return HostMirror(self, needs_host_values=self._needs_host_values)

    def access(self, field: str, rows: tuple[int, ...]) -> Access:
        """Name rows, ascending, for ``reads`` and ``writes`` of a launch that orders itself."""
        return Access(self.name, field, rows, self._memory.tensors[field])

    def follow(self, allocator: SlotAllocator) -> None:
        """Say that its slots own the rows: to a hazard checker, freeing one writes its row."""
        allocator.follow(self._order.freed)

    def close(self) -> None:
        """Give back the mirror's stream, if it was opened; await what was resolved first."""
        if "mirror" in self.__dict__:
            self.mirror.close()

    # Launches of their own ------------------------------------------------

    def gather(
        self,
        slots: Slots,
        *fields: str,
        keep: bool = False,
        index: Tensor | Launch[Tensor] | None = None,
        stream: Stream | None = None,
    ) -> Launch[dict[str, Tensor]]:
        """Enqueue a read of rows, for the next step.

        Behind the launches that wrote the rows, also across streams. The values are
        copies: they stay valid whatever is written to the rows later.

        Args:
            slots: whose rows; the values come in this order.
            fields: which fields; all if none is named.
            keep: leave the rows to be gathered again; matters in strict mode.
            index: the row numbers on the device, where the caller has them already;
                may be longer than ``slots`` with padding 0.
            stream: where to enqueue; the current stream by default.

        Returns:
            A launch that gives one tensor per field, one row per slot (or per element
            of ``index``).

        Raises:
            UnknownFieldError: there is no such field.
            SlotRangeError: there is no such row.
            DuplicateSlotError: a slot is named twice.
            NoCurrentStreamError: no stream is current, and none is given.
            RowNotWrittenError: strict mode: a row holds nothing new.
            StaleRowError: strict mode: a row was written for another owner.
        """
        use = self.gathers(slots, *fields, keep=keep)
        rows = index_of(use.rows, index)
        return self._order.launch(stream, "gather", (use,), self._gather, rows, use.fields, keep)

    def stash(
        self,
        slots: Slots,
        *,
        index: Tensor | Launch[Tensor] | None = None,
        stream: Stream | None = None,
        **payload: Tensor | Launch[Tensor],
    ) -> Launch[None] | None:
        """Enqueue a write of rows, for the next step to gather.

        The rows hold the payload from the launch's event until the next write to them,
        which waits on the device for the gathers enqueued before it. A cancellation
        leaves the write to run out.

        Args:
            slots: whose rows.
            index: as for ``gather``.
            stream: where to enqueue; the current stream by default.
            payload: one tensor per field to write, with one row per slot.

        Returns:
            The launch, or None for no slots (or padding only): nothing is enqueued.

        Raises:
            DtypeError: a payload has the wrong dtype. Of a payload that is a launch,
                this and ``ShapeError`` are raised by awaiting the write.
            ShapeError: a payload has the wrong shape, or lies on the wrong device.
            UnknownFieldError: there is no such field, or none is named.
            SlotRangeError, DuplicateSlotError, NoCurrentStreamError: as for ``gather``.
            StaleRowError: strict mode: a later owner wrote a row before.
        """
        return self._write(self.stashes(slots, *payload), index, stream, payload)

    def publish(
        self,
        slots: Slots,
        *,
        index: Tensor | Launch[Tensor] | None = None,
        stream: Stream | None = None,
        **values: Tensor | Launch[Tensor],
    ) -> Event | None:
        """Enqueue a write of rows, and record an event that says that they are there.

        Each publish has an event of its own; ``published`` is the latest. Arguments and
        errors are those of ``stash``.

        Returns:
            The event, or None for no slots (or padding only): nothing is enqueued.
        """
        launch = self._write(self.publishes(slots, *values), index, stream, values)
        return None if launch is None else self.published

    async def resolve(self, slots: Slots) -> dict[str, Tensor] | None:
        """Wait for a copy of rows on the host; see ``HostMirror.resolve``."""
        return await self.mirror.resolve(slots)

    # Rows used inside a launch --------------------------------------------

    def gathers(self, slots: Slots, *fields: str, keep: bool = False) -> RowUse:
        """Say that a launch gathers rows; see ``launch`` and ``gather``."""
        return self._use(Use.PEEK if keep else Use.GATHER, slots, fields)

    def stashes(self, slots: Slots, *fields: str) -> RowUse:
        """Say that a launch stashes rows of the named fields; see ``launch``."""
        return self._use(Use.STASH, slots, self._memory.named(fields))

    def publishes(self, slots: Slots, *fields: str) -> RowUse:
        """Say that a launch writes rows that are published when it ends; see ``launch``."""
        return self._use(Use.PUBLISH, slots, self._memory.named(fields))

    def launch(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        uses: Iterable[RowUse],
        stream: Stream | None = None,
        **kwargs: Any,
    ) -> Launch[T]:
        """Enqueue a function that calls ``gather_rows`` and ``stash_rows`` itself.

        Orders it behind other uses of the rows and declares its accesses, as the verbs
        do for theirs. What it gathers was written by earlier launches.

        Args:
            fn: see ``Stream.launch``.
            args: for ``fn``.
            uses: which rows, from ``gathers``, ``stashes`` and ``publishes``.
            stream: where to enqueue; the current stream by default.
            kwargs: for ``fn``.

        Raises:
            NoCurrentStreamError, RowNotWrittenError, StaleRowError: as for ``gather``.
        """
        label = getattr(fn, "__name__", type(fn).__name__)
        return self._order.launch(stream, label, tuple(uses), fn, *args, **kwargs)

    def gather_rows(
        self, index: Tensor, fields: Sequence[str] = (), *, keep: bool = False
    ) -> dict[str, Tensor]:
        """Read rows inside the function of a launch.

        Plain torch work on the current stream: no host wait, can be captured in a graph.
        Order against other streams is the business of ``launch``.

        Args:
            index: int64 row numbers on the device; padding is 0.
            fields: which fields; all if none is named.
            keep: do not poison the rows; matters in strict mode.

        Raises:
            DtypeError, ShapeError: the index is not int64, or has not one dimension.
            UnknownFieldError: there is no such field.
        """
        return self._memory.gather_rows(index, fields, keep=keep)

    def stash_rows(self, index: Tensor, **payload: Tensor) -> None:
        """Write rows inside the function of a launch; see ``gather_rows``.

        Raises:
            DtypeError: a payload, or the index, has the wrong dtype.
            ShapeError: a payload has the wrong shape, or lies on the wrong device.
            UnknownFieldError: there is no such field, or none is named.
        """
        self._memory.stash_rows(index, payload)

    def _write(
        self,
        use: RowUse,
        index: Tensor | Launch[Tensor] | None,
        stream: Stream | None,
        payload: Mapping[str, Tensor | Launch[Tensor]],
    ) -> Launch[None] | None:
        rows = index_of(use.rows, index)
        for field, value in payload.items():
            if isinstance(value, Tensor) and isinstance(rows, Tensor):
                self._memory.check_payload(field, value, rows.shape[0])
        if not use.rows.refs:
            return None
        return self._order.launch(stream, use.use.value, (use,), self._stash, rows, dict(payload))

    def _gather(self, index: Tensor, fields: tuple[str, ...], keep: bool) -> dict[str, Tensor]:
        return self.gather_rows(to_device(self.device, index), fields, keep=keep)

    def _stash(self, index: Tensor, payload: Mapping[str, Tensor]) -> None:
        self._memory.stash_rows(to_device(self.device, index), payload)

    def _use(self, use: Use, slots: Slots, fields: Sequence[str]) -> RowUse:
        return RowUse(use, as_rows(slots, self.num_slots), self._memory.known(fields))
