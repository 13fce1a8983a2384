"""``SlotAllocator``: who owns which slot."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from buffers.errors import (
    DoubleFreeError,
    ForeignSlotError,
    SlotError,
    SlotsExhaustedError,
    StaleSlotError,
)
from buffers.slots import PADDING, Slot, SlotAllocator


def test_take_gives_lowest_free_slot_and_never_padding() -> None:
    """Slots start above the padding row, and the lowest free one is next."""
    allocator = SlotAllocator(3)
    a, b, c = (allocator.take(owner) for owner in "abc")
    assert [a.index, b.index, c.index] == [1, 2, 3]
    allocator.give_back(c)
    allocator.give_back(a)
    assert allocator.take("d").index == 1
    assert PADDING not in {slot.index for slot in allocator.in_use}


def test_order_of_give_back_does_not_change_next_slots() -> None:
    """Which slots come next depends on the set of free ones only."""
    orders = []
    for returned in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        allocator = SlotAllocator(3)
        slots = [allocator.take() for _ in range(3)]
        for number in returned:
            allocator.give_back(slots[number])
        orders.append([allocator.take().index for _ in range(3)])
    assert orders == [[1, 2, 3]] * 3


def test_without_padding_slot_zero_is_handed_out() -> None:
    """An allocator for buffers without a padding row starts at 0."""
    allocator = SlotAllocator(2, reserve_padding=False)
    assert [allocator.take().index, allocator.take().index] == [0, 1]


def test_take_of_exhausted_slots_says_what_to_do() -> None:
    """The error of an empty allocator names its size and the remedy, and it lives on."""
    allocator = SlotAllocator(2)
    slots = [allocator.take(), allocator.take()]
    with pytest.raises(SlotsExhaustedError) as caught:
        allocator.take()
    assert str(caught.value) == ("all 2 slots are in use; raise max_running or await a result")
    allocator.give_back(slots[0])
    assert allocator.take().index == 1


def test_each_owner_of_a_row_has_its_generation() -> None:
    """A row that changes hands gets another generation, and only the last is current."""
    allocator = SlotAllocator(1)
    first = allocator.take("a")
    allocator.give_back(first)
    second = allocator.take("b")
    assert (first.index, first.generation) == (1, 1)
    assert (second.index, second.generation) == (1, 2)
    assert not allocator.is_current(first)
    assert allocator.is_current(second)


def test_give_back_after_reuse_names_both_owners() -> None:
    """A late give_back cannot free the row of its next owner."""
    allocator = SlotAllocator(1)
    first = allocator.take("a")
    allocator.give_back(first)
    second = allocator.take("b")
    with pytest.raises(
        StaleSlotError,
        match=r"slot 1, generation 1 of 'a'.*belongs to slot 1, generation 2 of 'b'",
    ):
        allocator.give_back(first)
    assert allocator.is_current(second)
    allocator.give_back(second)
    with pytest.raises(StaleSlotError, match="was last taken as slot 1, generation 2 of 'b'"):
        allocator.give_back(first)


def test_give_back_twice_is_an_error() -> None:
    """The second give_back of one slot does not put it into the free list again."""
    allocator = SlotAllocator(2)
    slot = allocator.take("a")
    allocator.give_back(slot)
    with pytest.raises(DoubleFreeError, match=r"slot 1, generation 1 of 'a' was given back before"):
        allocator.give_back(slot)
    assert allocator.num_free == 2


@pytest.mark.parametrize("index", [0, 1, 5])
def test_give_back_of_slot_never_handed_out_is_an_error(index: int) -> None:
    """Padding, a free row and a row out of range are nobody's to give back."""
    allocator = SlotAllocator(2)
    with pytest.raises(ForeignSlotError, match=r"allocator of slots 1 to 2 \(its latest .* none\)"):
        allocator.give_back(Slot(index, 1, "a"))
    assert allocator.num_free == 2


def test_give_back_to_other_allocator_is_an_error() -> None:
    """An equal slot of another allocator is foreign, however alike the two are."""
    ours, theirs = SlotAllocator(2), SlotAllocator(2)
    slot, other = ours.take("a"), theirs.take("a")
    assert slot == other
    with pytest.raises(ForeignSlotError, match="not the object that take"):
        ours.give_back(other)
    ours.give_back(slot)


def test_allocator_without_capacity_is_refused() -> None:
    """A capacity below 1 is the caller's mistake."""
    with pytest.raises(ValueError, match="capacity=0 is not positive"):
        SlotAllocator(0)


def test_repr_says_how_many_are_free() -> None:
    """What a debugger shows is the fill."""
    allocator = SlotAllocator(2)
    allocator.take()
    assert repr(allocator) == "<SlotAllocator 1 of 2 free>"


class AllocatorMachine(RuleBasedStateMachine):
    """Any sequence of takes, returns and mistakes, beside a model of plain sets."""

    capacity = 4

    def __init__(self) -> None:
        super().__init__()
        self.allocator = SlotAllocator(self.capacity)
        self.held: list[Slot] = []
        self.returned: list[Slot] = []

    @rule(owner=st.sampled_from("abc"))
    def take(self, owner: str) -> None:
        """The lowest free row, in its next generation, or exhausted."""
        taken = {slot.index for slot in self.held}
        free = [i for i in range(1, self.capacity + 1) if i not in taken]
        if not free:
            with pytest.raises(SlotsExhaustedError):
                self.allocator.take(owner)
            return
        slot = self.allocator.take(owner)
        before = sum(former.index == free[0] for former in self.returned)
        assert slot == Slot(free[0], before + 1, owner)
        self.held.append(slot)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """A held slot can be given back."""
        slot = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.allocator.give_back(slot)
        self.returned.append(slot)

    @precondition(lambda self: self.returned)
    @rule(data=st.data())
    def give_back_again(self, data: st.DataObject) -> None:
        """A slot given back before never can, whoever has its row now."""
        slot = data.draw(st.sampled_from(self.returned))
        reused = any(
            s.index == slot.index and s.generation > slot.generation
            for s in (*self.held, *self.returned)
        )
        with pytest.raises(StaleSlotError if reused else DoubleFreeError):
            self.allocator.give_back(slot)

    @rule(index=st.integers(0, 6), ahead=st.integers(1, 3))
    def give_back_foreign(self, index: int, ahead: int) -> None:
        """A slot that was never handed out never can."""
        before = sum(s.index == index for s in (*self.held, *self.returned))
        with pytest.raises(SlotError):
            self.allocator.give_back(Slot(index, before + ahead))

    @invariant()
    def agrees_with_model(self) -> None:
        """Held slots are current and disjoint; the rest is free."""
        held = sorted(self.held, key=lambda slot: slot.index)
        assert self.allocator.in_use == tuple(held)
        assert self.allocator.num_free == self.capacity - len(held)
        assert all(map(self.allocator.is_current, self.held))
        assert not any(map(self.allocator.is_current, self.returned))


AllocatorMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None
)
TestAllocatorMachine = AllocatorMachine.TestCase
