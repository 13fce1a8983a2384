"""``CaptureCache``: what layers chose, from the device rows of a step to host rows by slot."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from buffers.capture import CaptureCache, CaptureShape
from buffers.captured_rows import Captured, CapturedRows
from buffers.errors import (
    CaptureOverflowError,
    CaptureRowsError,
    NoCurrentStreamError,
    ShapeError,
    SlotRangeError,
    StaleSlotError,
)
from buffers.slots import Slot, SlotAllocator
from buffers.transfer import copy_to_host
from streams.device import Device, open_device
from streams.hazards import AccessAudit, HazardChecker
from streams.stream import Stream
from tests.device_fixtures import HoldFactory

SHAPE = CaptureShape(num_layers=2, top_k=2, num_shared=1)
SHARED = 99


def cache_on(device: Device, max_rows: int = 4) -> CaptureCache:
    """Make a small cache."""
    return CaptureCache(device, SHAPE, max_rows=max_rows, num_slots=3, max_len=6)


def fill(cache: CaptureCache, places: Sequence[tuple[int, int]], first: int = 0) -> None:
    """Do what a model does in its launch.

    Row r of layer l chooses ``first + 10 r + 2 l`` and the next one, and has the shared expert.
    """
    where = cache.accesses(1)[0].memory.device
    slots, positions = torch.tensor(places, device=where).unbind(1)
    cache.place(slots, positions)
    rows = first + 10 * torch.arange(len(places), device=where)[:, None]
    for layer in range(SHAPE.num_layers):
        chosen = rows + 2 * layer + torch.arange(2, device=where)
        cache.write(layer, torch.nn.functional.pad(chosen, (0, 1), value=SHARED))


def launch(
    cache: CaptureCache, stream: Stream, places: Sequence[tuple[int, int]], first: int = 0
) -> Any:
    """Enqueue it."""
    return stream.launch(fill, cache, places, first, writes=cache.accesses(len(places)))


def expected(*rows: int) -> list[list[list[int]]]:
    """Return what ``fill`` chooses for rows, by layer."""
    return [[[row, row + 1], [row + 2, row + 3]] for row in rows]


def on_host(experts: Sequence[int], places: Sequence[tuple[int, int]]) -> Captured:
    """Make rows that have come to the host, of one layer that chooses one expert."""
    return Captured(
        torch.tensor(experts, dtype=torch.int16)[:, None, None],
        torch.tensor(places, dtype=torch.int32).view(-1, 2),
    )


def kept(rows: CapturedRows, owner: Slot) -> list[int]:
    """Take out the rows of a slot, of one layer that chooses one expert."""
    return rows.collect(owner, rows.num_rows(owner)).flatten().tolist()


# On the device ------------------------------------------------------------------


async def test_rows_come_by_slot_and_position_without_shared_experts(device: Device) -> None:
    """Two requests share the first step, one goes on in the second; padding is dropped."""
    cache, slots = cache_on(device), SlotAllocator(3)
    one, two = slots.take("one"), slots.take("two")
    stream, copies = device.stream("forward"), device.stream("copy")
    for places, first in (
        ([(1, 0), (1, 1), (0, 0), (2, 0)], 0),
        ([(2, 1), (0, 0), (0, 0), (0, 0)], 100),
    ):
        launch(cache, stream, places, first)
        captured = await copy_to_host(copies, cache.take(slice(0, 4), stream=stream))
        cache.host.scatter(captured, {one: None, two: None} if first == 0 else {two: None})
    assert cache.host.collect(one, 2).tolist() == expected(0, 10)
    assert cache.host.collect(two, 2).tolist() == expected(30, 100)


async def test_next_forward_leaves_taken_rows_as_they_were(
    device: Device, hold: HoldFactory
) -> None:
    """The copy of a step starts only after the next forward has overwritten all rows."""
    cache = cache_on(device)
    stream, copies = device.stream("forward"), device.stream("copy")
    held = hold(copies)
    launch(cache, stream, [(1, 0), (1, 1)])
    taken = cache.take(slice(0, 2), stream=stream)
    copied = copy_to_host(copies, taken)
    await launch(cache, stream, [(3, 4), (3, 5)], 50)
    held.release()
    captured = await copied
    assert captured.experts.tolist() == expected(0, 10)
    assert captured.places.tolist() == [[1, 0], [1, 1]]
    assert captured.experts.dtype is torch.int16


async def test_rank_takes_its_own_rows_of_a_gathered_batch(device: Device) -> None:
    """It knows the places of its own rows only, and what all rows chose."""
    cache, stream = cache_on(device), device.stream("forward")

    def gathered() -> None:
        fill(cache, [(0, 0)] * 4)
        local = torch.tensor([[2, 0], [3, 0]], device=device.torch_device)
        cache.place(local[:, 0], local[:, 1], start=2)

    stream.launch(gathered, writes=cache.accesses(4))
    captured = await copy_to_host(stream, cache.take(slice(2, 4), stream=stream))
    assert captured.places.tolist() == [[2, 0], [3, 0]]
    assert captured.experts.tolist() == expected(20, 30)


async def test_empty_slice_takes_nothing(device: Device) -> None:
    """An idle rank has no rows in the batch that it joins."""
    cache, stream = cache_on(device), device.stream("forward")
    captured = await copy_to_host(stream, cache.take(slice(4, 4), stream=stream))
    assert captured.experts.shape == (0, 2, 2)
    cache.host.scatter(captured, {})


async def test_more_rows_than_fit_raise_in_the_launch_and_before(device: Device) -> None:
    """Tokens to verify, say, that nobody thought of: never a silent wrap or cut."""
    cache, stream = cache_on(device), device.stream("forward")
    error = r"5 rows does not fit capture cache 'capture' of 4; make it for the largest batch"
    with pytest.raises(CaptureOverflowError, match=error):
        cache.accesses(5)
    with pytest.raises(CaptureOverflowError, match=error):
        cache.take(slice(1, 5), stream=stream)
    with pytest.raises(CaptureOverflowError, match=error):
        await stream.launch(fill, cache, [(1, position) for position in range(5)])
    with pytest.raises(CaptureOverflowError, match=error):
        cache.write(0, torch.zeros(5, 3))
    with pytest.raises(CaptureOverflowError, match=error):
        cache.place(torch.zeros(3), torch.zeros(3), start=2)


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        (slice(torch.tensor(0), torch.tensor(2)), "Tensor, Tensor, NoneType"),
        (slice(0, torch.tensor(2)), "int, Tensor, NoneType"),
        (slice(None, 2), "NoneType, int, NoneType"),
        (slice(0, True), "int, bool, NoneType"),
        (slice(0, 2, 1), "int, int, int"),
    ],
)
def test_bounds_that_are_no_host_integers_are_refused(rows: slice, kinds: str) -> None:
    """A tensor as a bound would work, and wait for the device."""
    with open_device("cpu") as device:
        cache = cache_on(device)
        with pytest.raises(TypeError, match=rf"the bounds of the rows are {kinds}; give slice\("):
            cache.take(rows, stream=device.stream("forward"))


def test_rows_before_the_batch_are_refused() -> None:
    """Negative bounds would count from the end of the memory, not of the batch."""
    with open_device("cpu") as device:
        cache, stream = cache_on(device), device.stream("forward")
        for rows in (slice(-1, 2), slice(2, 1)):
            with pytest.raises(CaptureOverflowError, match="are no rows of a batch"):
                cache.take(rows, stream=stream)
        places = torch.ones(3, dtype=torch.int64)
        with pytest.raises(CaptureOverflowError, match="rows -4 to -1 are no rows of a batch"):
            cache.place(places, places, start=-4)


def test_take_needs_a_stream() -> None:
    """Outside a stage there is none."""
    with open_device("cpu") as device, pytest.raises(NoCurrentStreamError, match="needs stream="):
        cache_on(device).take(slice(0, 1))


@pytest.mark.parametrize(("layer", "columns"), [(2, 3), (-1, 3), (0, 2), (1, 4)])
def test_layer_that_the_cache_was_not_made_for_is_refused(layer: int, columns: int) -> None:
    """Broadcasting would fill the columns with something."""
    with open_device("cpu") as device, pytest.raises(ShapeError, match=r"layers 0 to 1 of 3 col"):
        cache_on(device).write(layer, torch.zeros(1, columns))


def test_places_of_two_shapes_are_refused() -> None:
    """Each row has one slot and one position."""
    with open_device("cpu") as device, pytest.raises(ShapeError, match="one of each per row"):
        cache_on(device).place(torch.zeros(2, 2), torch.zeros(4))


@pytest.mark.parametrize("name", ["max_rows", "num_slots", "max_len", "num_layers", "top_k"])
def test_size_below_one_is_refused(name: str) -> None:
    """Nothing could be captured."""
    sizes = dict.fromkeys(("num_layers", "top_k", "max_rows", "num_slots", "max_len"), 1)
    num_layers, top_k, max_rows, num_slots, max_len = (sizes | {name: 0}).values()
    with open_device("cpu") as device, pytest.raises(ValueError, match=f"{name}=0 of capture"):
        CaptureCache(
            device,
            CaptureShape(num_layers, top_k),
            max_rows=max_rows,
            num_slots=num_slots,
            max_len=max_len,
        )


async def test_all_that_is_used_is_declared() -> None:
    """Nothing is touched that a hazard checker was not told of, and all that is in order."""
    checker = HazardChecker()
    audit = AccessAudit(checker)
    with open_device("cpu") as device, checker.watch(device), audit.watch(device):
        cache, stream, copies = cache_on(device), device.stream("forward"), device.stream("copy")
        audit.register(*(access.memory for access in cache.accesses(1)))
        for number in range(3):
            launch(cache, stream, [(1, number), (2, number)])
            copied = copy_to_host(copies, cache.take(slice(1, 2), stream=stream))
        assert (await copied).places.tolist() == [[2, 2]]
    assert audit.num_operators
    assert checker.reports == []


# On the host --------------------------------------------------------------------


def test_rows_in_any_number_of_steps_end_up_in_order() -> None:
    """Prefill in chunks, then token by token."""
    rows, owner = CapturedRows(2, 8, 1, 1), Slot(1, 1)
    rows.scatter(on_host([5, 6, 7], [(1, 0), (1, 1), (1, 2)]), {owner: None})
    rows.scatter(on_host([8], [(1, 3)]), {owner: None})
    assert rows.num_rows(owner) == 4
    assert kept(rows, owner) == [5, 6, 7, 8]
    assert rows.num_rows(owner) == 0


def test_rejected_draft_tokens_have_no_rows() -> None:
    """Of four tokens to verify two are accepted; the next step writes their successors."""
    rows, owner = CapturedRows(2, 8, 1, 1), Slot(2, 1)
    rows.scatter(on_host([1, 2, 3, 4], [(2, at) for at in range(4)]), {owner: 2})
    rows.scatter(on_host([5, 6], [(2, 2), (2, 3)]), {owner: 2})
    assert kept(rows, owner) == [1, 2, 5, 6]


def test_rows_of_those_who_want_none_are_dropped() -> None:
    """Padding, and tokens sampled past the end of a text."""
    rows, owner = CapturedRows(2, 8, 1, 1), Slot(1, 1)
    rows.scatter(on_host([1, 2, 3], [(0, 0), (1, 0), (2, 5)]), {owner: None})
    assert kept(rows, owner) == [2]


@pytest.mark.parametrize(
    ("places", "num_kept", "wanted"),
    [
        ([(1, 2)], None, r"has 1 captured rows, .* positions \[2\] instead of \[1\]"),
        ([(1, 0)], None, r"positions \[0\] instead of \[1\]"),
        ([(1, 1), (1, 1)], None, r"positions \[1, 1\] instead of \[1, 2\]"),
        ([(1, 2), (1, 1)], None, r"positions \[2, 1\] instead of \[1, 2\]"),
        ([(1, 1)], 2, r"positions \[1\] instead of \[1, 2\]"),
        ([(2, 1)], 1, r"positions \[\] instead of \[1\]"),
    ],
)
def test_gaps_doubles_and_missing_rows_raise(
    places: list[tuple[int, int]], num_kept: int | None, wanted: str
) -> None:
    """A row too few or too many would give every later token another one's experts."""
    rows, owner, other = CapturedRows(2, 8, 1, 1), Slot(1, 1), Slot(2, 1)
    rows.scatter(on_host([4], [(1, 0)]), {owner: None})
    step = on_host([9] * (len(places) + 1), [(2, 0), *places])
    with pytest.raises(CaptureRowsError, match=wanted):
        rows.scatter(step, {other: 1, owner: num_kept})
    assert rows.num_rows(other) == 0, "a step is kept as a whole or not at all"
    assert kept(rows, owner) == [4]


@pytest.mark.parametrize("num_tokens", [1, 3])
def test_request_with_more_or_fewer_tokens_than_rows_raises(num_tokens: int) -> None:
    """Never a shorter or padded answer."""
    rows, owner = CapturedRows(2, 8, 1, 1), Slot(1, 1, "request 7")
    rows.scatter(on_host([4, 5], [(1, 0), (1, 1)]), {owner: None})
    with pytest.raises(
        CaptureRowsError, match=rf"'request 7' has 2 captured rows for {num_tokens} tokens"
    ):
        rows.collect(owner, num_tokens)


def test_next_owner_of_a_slot_starts_without_rows() -> None:
    """What the former one left, aborted perhaps, is not the beginning of its text."""
    rows, former, owner = CapturedRows(2, 8, 1, 1), Slot(1, 1), Slot(1, 2)
    rows.scatter(on_host([1, 2], [(1, 0), (1, 1)]), {former: None})
    assert rows.num_rows(owner) == 0
    rows.scatter(on_host([3], [(1, 0)]), {owner: None})
    assert rows.num_rows(former) == 0
    assert kept(rows, owner) == [3]


def test_late_rows_of_a_former_owner_are_refused() -> None:
    """They must not become rows of the present one."""
    rows, former, owner = CapturedRows(2, 8, 1, 1), Slot(1, 1, "old"), Slot(1, 2, "new")
    rows.scatter(on_host([3], [(1, 0)]), {owner: None})
    with pytest.raises(StaleSlotError, match="rows came for slot 1, generation 1 of 'old'"):
        rows.scatter(on_host([1], [(1, 0)]), {former: None})
    assert kept(rows, owner) == [3]


def test_text_longer_than_its_slot_raises() -> None:
    """A verify step may look beyond the end of the cache."""
    rows, owner = CapturedRows(1, 2, 1, 1), Slot(1, 1)
    with pytest.raises(CaptureOverflowError, match="gets 3 rows and has room for 2"):
        rows.scatter(on_host([1, 2, 3], [(1, at) for at in range(3)]), {owner: None})


@pytest.mark.parametrize("index", [0, 3])
def test_slot_that_is_not_there_is_refused(index: int) -> None:
    """The padding row belongs to nobody."""
    with pytest.raises(SlotRangeError, match=r"slots are 1 to 2"):
        CapturedRows(2, 8, 1, 1).scatter(on_host([1], [(index, 0)]), {Slot(index, 1): None})


def test_collected_rows_are_the_callers_own() -> None:
    """The next owner of the slot does not write them."""
    rows, owner = CapturedRows(1, 2, 1, 1), Slot(1, 1)
    rows.scatter(on_host([7], [(1, 0)]), {owner: None})
    mine: Tensor = rows.collect(owner, 1)
    rows.scatter(on_host([8], [(1, 0)]), {Slot(1, 2): None})
    assert mine.flatten().tolist() == [7]
