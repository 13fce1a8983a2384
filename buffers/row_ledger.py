"""The host's books on the rows of one relay field: who used each row last.

Pure bookkeeping at the moment of enqueueing; nothing here waits or touches a
device. From it follow the device-side waits that keep readers behind writers and
writers behind readers, and in strict mode what a row may be used for.
"""

from collections.abc import Iterable, Sequence

from buffers.errors import RowNotWrittenError, StaleRowError
from buffers.rows import RowRef
from streams.event import Event

__all__ = ["RowLedger"]


class RowLedger:
    """Last writer, readers since, and in strict mode state and owner of each row.

    Args:
        field: names the field in errors.
        num_rows: rows, the padding row included.
    """

    def __init__(self, field: str, num_rows: int) -> None:
        self.field = field
        self._writer: list[Event | None] = [None] * num_rows
        self._readers: list[tuple[Event, ...]] = [()] * num_rows
        self._stashed_by: list[RowRef | None] = [None] * num_rows
        self._is_fresh = [False] * num_rows

    # What strict mode forbids ---------------------------------------------

    def check_read(self, refs: Iterable[RowRef]) -> None:
        """Raise unless each row was written since it was last consumed, by this owner.

        Raises:
            RowNotWrittenError: there is nothing in it.
            StaleRowError: another owner of the slot wrote it.
        """
        for ref in refs:
            stashed_by = self._stashed_by[ref.row]
            if stashed_by is None:
                raise RowNotWrittenError(
                    f"{self.field} of {ref} was never written; stash it before it is gathered"
                )
            if _differ(ref, stashed_by):
                raise StaleRowError(
                    f"{self.field} of {ref} was written for {stashed_by}; "
                    "the slot has changed hands, so stash it for the new owner first"
                )
            if not self._is_fresh[ref.row]:
                raise RowNotWrittenError(
                    f"{self.field} of {ref} was consumed and not written since; stash it again, "
                    "or gather with keep=True the first time"
                )

    def check_write(self, refs: Iterable[RowRef]) -> None:
        """Raise if a later owner of the slot wrote a row before.

        Raises:
            StaleRowError: the slot has changed hands.
        """
        for ref in refs:
            stashed_by = self._stashed_by[ref.row]
            if stashed_by is not None and _is_older(ref, stashed_by):
                raise StaleRowError(
                    f"{self.field} cannot be written for {ref}: the row was written for "
                    f"{stashed_by} before; keep a slot until its last launch has completed"
                )

    # What must come first on the device -----------------------------------

    def writers(self, refs: Iterable[RowRef]) -> set[Event]:
        """Events that a read of these rows must come after (RAW)."""
        events = {self._writer[ref.row] for ref in refs}
        return {event for event in events if event is not None}

    def users(self, refs: Sequence[RowRef]) -> set[Event]:
        """Events that a write to these rows must come after (WAW, WAR)."""
        readers = {self._readers[ref.row] for ref in refs}
        return self.writers(refs).union(*readers)

    # What was enqueued -----------------------------------------------------

    def note_read(self, refs: Iterable[RowRef], event: Event, *, consumes: bool) -> None:
        """A launch that ends with ``event`` reads these rows."""
        merged: dict[tuple[Event, ...], tuple[Event, ...]] = {}  # most rows share their readers
        for ref in refs:
            readers = self._readers[ref.row]
            if readers not in merged:
                others = (e for e in readers if e.stream is not event.stream)
                merged[readers] = (*others, event)
            self._readers[ref.row] = merged[readers]
            if consumes:
                self._is_fresh[ref.row] = False

    def note_write(self, refs: Iterable[RowRef], event: Event) -> None:
        """A launch that ends with ``event`` writes these rows."""
        for ref in refs:
            self._writer[ref.row] = event
            self._readers[ref.row] = ()
            self._stashed_by[ref.row] = ref
            self._is_fresh[ref.row] = True


def _differ(ref: RowRef, other: RowRef) -> bool:
    """Whether both state a generation, and not the same one."""
    if ref.generation is None or other.generation is None:
        return False
    return ref.generation != other.generation


def _is_older(ref: RowRef, other: RowRef) -> bool:
    """Whether both state a generation, and the first an earlier one."""
    if ref.generation is None or other.generation is None:
        return False
    return ref.generation < other.generation
