"""Who owns which slot: row numbers of the buffers that cross steps.

Pure bookkeeping, without torch: a slot is a row number and a generation, and the
generation tells one owner of a row from the next (ABA).
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from buffers.errors import (
    DoubleFreeError,
    ForeignSlotError,
    SlotError,
    SlotsExhaustedError,
    StaleSlotError,
)
from streams.hazards.tasks import handoff

__all__ = ["PADDING", "Slot", "SlotAllocator"]

PADDING = 0
"""The row that padded lanes of a batch read and write; nobody owns it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One owner's claim on a row.

    Attributes:
        index: the row.
        generation: how many owners the row has had, this one included.
        owner: names the owner in errors.
    """

    index: int
    generation: int
    owner: str = ""

    def __str__(self) -> str:
        return f"slot {self.index}, generation {self.generation} of {self.owner!r}"


class SlotAllocator:
    """Hands out slots, the lowest free one first.

    Lowest first, and not first in first out, because then the choice depends only on
    *which* slots are free. Slots come back when device events complete, in an order
    that the device decides; a queue would carry that order into the next batch,
    and overlapped and sequential runs could no longer be compared slot by slot.
    (What a queue is chosen for elsewhere, to put off reuse, generations do better:
    they report it.)

    Args:
        capacity: slots that can be in use at once; at least 1.
        reserve_padding: leave row 0 to padding, so that slots are 1 to ``capacity``
            and buffers need one row more; otherwise they are 0 to ``capacity - 1``.

    Raises:
        ValueError: the capacity is not positive.
    """

    def __init__(self, capacity: int, reserve_padding: bool = True) -> None:
        if capacity < 1:
            raise ValueError(f"capacity={capacity} is not positive")
        self.capacity = capacity
        self._first = 1 if reserve_padding else 0
        self._free = list(range(self._first, self._first + capacity))  # a heap: sorted
        self._latest: dict[int, Slot] = {}
        self._in_use: set[int] = set()
        self._followers: list[Callable[[Slot], object]] = []

    def __repr__(self) -> str:
        return f"<SlotAllocator {self.num_free} of {self.capacity} free>"

    @property
    def num_free(self) -> int:
        """Slots that ``take`` can hand out now."""
        return len(self._free)

    @property
    def in_use(self) -> tuple[Slot, ...]:
        """The slots that are taken, lowest first."""
        return tuple(self._latest[index] for index in sorted(self._in_use))

    def take(self, owner: str = "") -> Slot:
        """Take the lowest free slot.

        Args:
            owner: names the owner in errors.

        Raises:
            SlotsExhaustedError: none is free.
        """
        if not self._free:
            raise SlotsExhaustedError(
                f"all {self.capacity} slots are in use; raise max_running or await a result"
            )
        handoff(self)
        index = heapq.heappop(self._free)
        former = self._latest.get(index)
        slot = Slot(index, former.generation + 1 if former else 1, owner)
        self._latest[index] = slot
        self._in_use.add(index)
        return slot

    def give_back(self, slot: Slot) -> None:
        """Give back a slot that ``take`` returned; its row may have a new owner at once.

        Call it when the device has made its last use of the row, not when the owner
        is done: ``KeepAlive.lease(slot, allocator.give_back)`` does.

        Raises:
            StaleSlotError: the row has a later owner already.
            DoubleFreeError: the slot was given back before.
            ForeignSlotError: this allocator never handed it out.
        """
        if not self.is_current(slot):
            raise self._misuse(slot)
        for follower in self._followers:
            follower(slot)
        handoff(self)
        self._in_use.remove(slot.index)
        heapq.heappush(self._free, slot.index)

    def follow(self, follower: Callable[[Slot], object]) -> None:
        """Call ``follower`` with each slot that is about to become free; it may not raise.

        For those who keep memory for slots; ``RelayBuffer.follow`` uses it.
        """
        self._followers.append(follower)

    def is_current(self, slot: Slot) -> bool:
        """Whether ``slot`` is the one that ``take`` returned and is not given back."""
        # Identity, because two allocators give out equal slots.
        return slot.index in self._in_use and self._latest[slot.index] is slot

    def _misuse(self, slot: Slot) -> SlotError:
        latest = self._latest.get(slot.index)
        if latest is None or slot.generation > latest.generation:
            last = self._first + self.capacity - 1
            return ForeignSlotError(
                f"{slot} was never handed out by this allocator of slots {self._first} to "
                f"{last} (its latest there: {latest or 'none'}); give it back where it was taken"
            )
        if slot is latest:
            return DoubleFreeError(
                f"{slot} was given back before, and nobody took it since (latest: {latest}); "
                "give a slot back once"
            )
        if slot.generation == latest.generation:
            return ForeignSlotError(
                f"{slot} is not the object that take() returned for {latest}; "
                "give it back to the allocator that it was taken from"
            )
        state = "belongs to" if slot.index in self._in_use else "was last taken as"
        return StaleSlotError(
            f"{slot} was given back too late or twice: it {state} {latest}; "
            "give a slot back once, when its last launch has completed"
        )
