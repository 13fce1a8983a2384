"""Who used which bytes last: the shadow of all memory that accesses name.

A cell is a range of bytes that somebody named; accesses to the same range find it by its
ends, and cells that overlap know each other. Each keeps the last write and, per actor, the
last read (as FastTrack does), and also writes and reads that the last write did not come
after: those have raced already, and whatever races with them later is told the truth. So do
those that the last write came after, but not for the sake of who comes after it.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from itertools import count
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from streams.current import WorkTag
from streams.guard import CallSite
from streams.hazards.access import Access
from streams.hazards.byte_ranges import Range, byte_ranges, overlap, row_range
from streams.hazards.order import Actor, Clock

__all__ = ["Cell", "Memory", "Piece", "Use", "is_dense"]

_SWEEP_EVERY = 256
_PRUNE_FROM = 512  # cells of one storage
_MAX_LAYOUTS = 8  # of rows in one storage


class Use(NamedTuple):
    """One access, as far as a later one needs to know it.

    Attributes:
        actor: who made it.
        epoch: the actor's count at that time; of a stream the number of the operation.
        is_write: whether it writes.
        is_free: whether it is a write because others may have the memory from then on.
        label: what it was: a launch's name, say.
        number: of the operation; 0 of the host.
        tag: step and stage.
        site: where it was asked for.
    """

    actor: Actor
    epoch: int
    is_write: bool
    is_free: bool
    label: str
    number: int
    tag: WorkTag | None
    site: CallSite | None


class Cell:
    """A range of bytes."""

    __slots__ = ("neighbours", "reads", "writes")

    def __init__(self) -> None:
        self.reads: dict[int, Use] = {}
        self.writes: dict[int, Use] = {}
        self.neighbours: list[Cell] = []

    def access(self, use: Use, clock: Clock) -> list[Use]:
        """Note a use at ``clock``; return the earlier ones that it conflicts with unordered."""
        found = self._unordered(use, clock)
        if use.is_write:
            passed = use.actor.passed
            kept = found if passed is None else self._unordered(use, passed)
            self.writes.clear()
            self.reads.clear()
            for other in kept:
                (self.writes if other.is_write else self.reads)[other.actor.id] = other
            self.writes[use.actor.id] = use
        else:
            self.reads[use.actor.id] = use
        for neighbour in self.neighbours:
            found += neighbour._unordered(use, clock)
        return found

    def has_unseen(self, clock: Clock) -> bool:
        """Whether something at ``clock`` does not come after all uses."""
        uses = (*self.writes.values(), *self.reads.values())
        return any(_is_unseen(use, clock) for use in uses)

    def _unordered(self, use: Use, clock: Clock) -> list[Use]:
        """Return the conflicting uses that something at ``clock`` does not come after."""
        found = [other for other in self.writes.values() if _is_unseen(other, clock)]
        if use.is_write and self.reads:
            found += [other for other in self.reads.values() if _is_unseen(other, clock)]
        return found


def is_dense(memory: object) -> TypeGuard[Tensor]:
    """Whether ``memory`` is a tensor whose bytes a storage holds."""
    return isinstance(memory, Tensor) and memory.layout is torch.strided


class Piece(NamedTuple):
    """A cell that an access covers, and the row that it stands for."""

    cell: Cell
    row: int | None


class Memory:
    """All storages that accesses have named.

    A storage is known by the address of its descriptor, which stays taken as long as the
    weak reference here lives: no later tensor is mistaken for a former one.

    Args:
        floor: returns the clock that every later access comes after, if there is one: cells of
            which all uses come before it are forgotten from time to time, for nothing can race
            with them any more.
    """

    def __init__(self, floor: Callable[[], Clock] | None = None) -> None:
        self._floor = floor
        self._storages: dict[int, _Storage] = {}
        self._numbers = count()
        self._num_until_sweep = _SWEEP_EVERY

    def __len__(self) -> int:
        return len(self._storages)

    def pieces(self, memory: Tensor | Access) -> list[Piece]:
        """Return the cells of an access."""
        if isinstance(memory, Access):
            storage = self._pruned(memory.memory)
            storage.name = storage.name or memory.name
            return storage.rows(memory)
        storage = self._pruned(memory)
        return [Piece(storage.cell(piece), None) for piece in byte_ranges(memory)]

    def name(self, memory: Tensor | Access) -> str:
        """Name memory without its rows; a tensor by the buffer that it is a part of."""
        if isinstance(memory, Access):
            return memory.name
        buffer = self._storage(memory).name
        shape = ", ".join(map(str, memory.shape))
        dtype = str(memory.dtype).removeprefix("torch.")
        return f"{f'part of {buffer}: ' if buffer else ''}tensor ({shape}) {dtype}"

    def number(self, memory: Tensor | Access) -> int:
        """Return the number of a storage; no two of this object ever have the same."""
        return self._storage(memory.memory if isinstance(memory, Access) else memory).number

    def known(self, tensor: Tensor) -> bool:
        """Whether an access has named this tensor's storage."""
        return tensor.untyped_storage()._cdata in self._storages

    def num_cells(self, tensor: Tensor) -> int:
        """Say how many ranges of a tensor's storage are kept apart."""
        return len(self._storage(tensor))

    def _pruned(self, tensor: Tensor) -> "_Storage":
        storage = self._storage(tensor)
        # Before the cells of an access are looked up: none of these may be forgotten.
        if self._floor is not None and storage.is_crowded:
            storage.prune(self._floor())
        return storage

    def _storage(self, tensor: Tensor) -> "_Storage":
        untyped = tensor.untyped_storage()
        storage = self._storages.get(untyped._cdata)
        if storage is None:
            self._sweep()
            ref = StorageWeakRef(untyped)  # type: ignore[no-untyped-call]  # torch's
            storage = _Storage(ref, next(self._numbers))
            self._storages[untyped._cdata] = storage
        return storage

    def _sweep(self) -> None:
        """Forget freed storages, from time to time: nobody can name them any more."""
        self._num_until_sweep -= 1
        if self._num_until_sweep <= 0:
            self._storages = {at: s for at, s in self._storages.items() if s.is_alive()}
            self._num_until_sweep = max(_SWEEP_EVERY, len(self._storages))


class _Storage:
    """The cells of one storage."""

    __slots__ = ("_cells", "_longest", "_max_cells", "_ranges", "_rows", "name", "number", "ref")

    def __init__(self, ref: StorageWeakRef, number: int) -> None:
        self.ref = ref
        self.number = number
        self.name = ""
        self._cells: dict[Range, Cell] = {}
        self._ranges: list[Range] = []  # sorted
        self._longest = 0
        self._max_cells = _PRUNE_FROM
        # The cells of rows that were named before, by how the rows lie in the storage.
        self._rows: dict[object, dict[int, list[Piece]]] = {}

    def __len__(self) -> int:
        return len(self._cells)

    def is_alive(self) -> bool:
        """Whether a tensor still refers to the storage."""
        return not self.ref.expired()  # type: ignore[no-untyped-call]  # torch's

    @property
    def is_crowded(self) -> bool:
        """Whether there are many cells."""
        return len(self._cells) >= self._max_cells

    def cell(self, piece: Range) -> Cell:
        """Return the cell of a range; a new one is made known to those that it overlaps."""
        cell = self._cells.get(piece)
        return cell if cell is not None else self._add(piece)

    def rows(self, access: Access) -> list[Piece]:
        """Return the cells of rows."""
        memory, found = access.memory, list[Piece]()
        layout = memory.storage_offset(), memory.shape, memory.stride(), memory.dtype
        known = self._rows.setdefault(layout, {})
        for row in access.rows:
            pieces = known.get(row)
            if pieces is None:
                pieces = [Piece(self.cell(piece), row) for piece in row_range(memory, row)]
                known[row] = pieces
            found += pieces
        return found

    def prune(self, floor: Clock) -> None:
        """Forget cells whose uses all come before ``floor``.

        Rows stay, as there are only so many of them and they are named again and again.
        """
        if len(self._rows) > _MAX_LAYOUTS:
            self._rows.clear()
        rows = self._row_cells()
        kept = {
            piece: cell
            for piece, cell in self._cells.items()
            if cell in rows or cell.has_unseen(floor)
        }
        self._max_cells = max(_PRUNE_FROM, 2 * len(kept))
        if len(kept) == len(self._cells):
            return
        self._cells = kept
        self._ranges = sorted(kept)
        self._longest = max((piece.high - piece.low for piece in kept), default=0)
        alive = set(kept.values())
        for cell in alive:
            cell.neighbours = [other for other in cell.neighbours if other in alive]

    def _row_cells(self) -> set[Cell]:
        """Return the cells of rows that are known; these must not be forgotten."""
        known = (pieces for rows in self._rows.values() for pieces in rows.values())
        return {piece.cell for pieces in known for piece in pieces}

    def _add(self, piece: Range) -> Cell:
        cell = Cell()
        first = bisect_left(self._ranges, (piece.low - self._longest,))
        last = bisect_left(self._ranges, (piece.high,))
        for other in self._ranges[first:last]:
            if overlap(other, piece):
                neighbour = self._cells[other]
                neighbour.neighbours.append(cell)
                cell.neighbours.append(neighbour)
        self._cells[piece] = cell
        insort(self._ranges, piece)
        self._longest = max(self._longest, piece.high - piece.low)
        return cell


def _is_unseen(use: Use, clock: Clock) -> bool:
    return clock.get(use.actor.id, 0) < use.epoch
