"""Strict relays: a row is read once per write, by the owner that it was written for."""

import pytest
import torch
from torch import Tensor

from buffers.errors import RowNotWrittenError, StaleRowError
from buffers.relay import RelayBuffer
from buffers.slots import SlotAllocator
from streams.device import Device
from tests.buffers.watching import OrderRecorder
from tests.device_fixtures import Cells

TOKENS = {"tokens": torch.int64}


async def test_gather_consumes_the_row(device: Device, cells: Cells) -> None:
    """The second gather of one write is an error; another write makes it right."""
    stream, slots = device.stream("forward"), SlotAllocator(2)
    relay, a = RelayBuffer(device, 2, TOKENS, strict=True), slots.take("a")
    relay.stash([a], stream=stream, tokens=cells(1))
    assert (await relay.gather([a], stream=stream))["tokens"].tolist() == [1]
    with pytest.raises(
        RowNotWrittenError,
        match=r"relay.tokens of slot 1, generation 1 of 'a' was consumed and not written since",
    ):
        relay.gather([a], stream=stream)
    relay.stash([a], stream=stream, tokens=cells(2))
    assert (await relay.gather([a], stream=stream))["tokens"].tolist() == [2]


async def test_gather_that_keeps_may_be_repeated(device: Device, cells: Cells) -> None:
    """``keep=True`` reads without consuming."""
    stream, relay = device.stream("forward"), RelayBuffer(device, 2, TOKENS, strict=True)
    relay.stash([1], stream=stream, tokens=cells(1))
    for keep in (True, True, False):
        rows = await relay.gather([1], keep=keep, stream=stream)
        assert rows["tokens"].tolist() == [1]


def test_gather_of_row_never_written_is_an_error(device: Device) -> None:
    """A row that no step stashed holds nothing."""
    relay = RelayBuffer(device, 2, TOKENS, strict=True)
    with pytest.raises(
        RowNotWrittenError, match="slot 2 of no stated generation was never written; stash it"
    ):
        relay.gather([2], stream=device.stream("forward"))


async def test_row_of_former_owner_is_not_given_to_the_next(device: Device, cells: Cells) -> None:
    """ABA: the slot was reassigned in between, and the error names both owners."""
    stream, slots = device.stream("forward"), SlotAllocator(1)
    relay, a = RelayBuffer(device, 1, TOKENS, strict=True), slots.take("a")
    relay.stash([a], stream=stream, tokens=cells(1))
    slots.give_back(a)
    b = slots.take("b")
    with pytest.raises(
        StaleRowError,
        match=r"slot 1, generation 2 of 'b' was written for slot 1, generation 1 of 'a'",
    ):
        relay.gather([b], stream=stream)
    relay.stash([b], stream=stream, tokens=cells(2))
    with pytest.raises(
        StaleRowError,
        match=r"slot 1, generation 1 of 'a' was written for slot 1, generation 2 of 'b'",
    ):
        relay.gather([a], stream=stream)
    assert (await relay.gather([b], stream=stream))["tokens"].tolist() == [2]


async def test_late_write_of_former_owner_is_an_error(device: Device, cells: Cells) -> None:
    """A step that kept a slot too long cannot overwrite the row of the next owner."""
    stream, slots = device.stream("forward"), SlotAllocator(1)
    relay, a = RelayBuffer(device, 1, TOKENS, strict=True), slots.take("a")
    slots.give_back(a)
    b = slots.take("b")
    relay.stash([b], stream=stream, tokens=cells(2))
    with pytest.raises(StaleRowError, match="cannot be written for slot 1, generation 1 of 'a'"):
        relay.publish([a], stream=stream, tokens=cells(1))
    assert (await relay.gather([b], stream=stream))["tokens"].tolist() == [2]


@pytest.mark.parametrize(
    ("dtype", "poison"), [(torch.int64, "-1"), (torch.uint8, "255"), (torch.float32, "nan")]
)
async def test_consumed_rows_hold_poison(
    device: Device, cells: Cells, dtype: torch.dtype, poison: str
) -> None:
    """Who reads rows behind the relay's back finds poison, before a write and after a gather."""
    stream, relay = device.stream("forward"), RelayBuffer(device, 2, {"x": dtype}, strict=True)
    index = cells(0, 1, 2)

    async def seen() -> list[str]:
        rows = await stream.launch(relay.gather_rows, index, keep=True)
        return [str(value) for value in rows["x"].tolist()]

    zero = str(torch.zeros((), dtype=dtype).item())
    assert await seen() == [zero, poison, poison]
    one = stream.launch(lambda: torch.ones(1, dtype=dtype, device=device.torch_device))
    relay.stash([1], stream=stream, x=one)
    await relay.gather([1], stream=stream)
    assert await seen() == [zero, poison, poison]


async def test_padding_is_gathered_again_and_again(device: Device, cells: Cells) -> None:
    """Padded lanes always find a valid number, in an embedding's range."""
    stream, relay = device.stream("forward"), RelayBuffer(device, 2, TOKENS, strict=True)
    index = cells(2, 0, 0)
    for value in (5, 6):
        relay.stash([2], stream=stream, tokens=cells(value))
        rows = await relay.gather([2], index=index, stream=stream)
        assert rows["tokens"].tolist() == [value, 0, 0]


async def test_bool_rows_are_checked_without_poison(device: Device) -> None:
    """Both values of a bool mean something; the books still know what was consumed."""
    stream, relay = device.stream("forward"), RelayBuffer(device, 1, {"b": torch.bool}, strict=True)
    true = stream.launch(lambda: torch.ones(1, dtype=torch.bool, device=device.torch_device))
    relay.stash([1], stream=stream, b=true)
    assert (await relay.gather([1], stream=stream))["b"].tolist() == [True]
    with pytest.raises(RowNotWrittenError):
        relay.gather([1], stream=stream)


async def test_model_inside_its_own_launch_is_checked_alike(device: Device, cells: Cells) -> None:
    """A launch that gathers rows itself is refused before it is enqueued."""
    stream, relay = device.stream("forward"), RelayBuffer(device, 2, TOKENS, strict=True)
    index = cells(1)

    def decode() -> Tensor:
        tokens = relay.gather_rows(index)["tokens"] + 1
        relay.stash_rows(index, tokens=tokens)
        return tokens

    uses = [relay.gathers([1]), relay.stashes([1], "tokens")]
    with pytest.raises(RowNotWrittenError):
        relay.launch(decode, uses=uses, stream=stream)
    relay.stash([1], stream=stream, tokens=cells(1))
    relay.launch(decode, uses=uses, stream=stream)
    assert (await relay.launch(decode, uses=uses, stream=stream)).tolist() == [3]


async def test_poison_is_ordered_like_a_write(device: Device, cells: Cells) -> None:
    """WAR: a gather that consumes does not poison rows under a read on another stream."""
    forward, schedule = device.stream("forward"), device.stream("schedule")
    relay, recorder = RelayBuffer(device, 1, TOKENS, strict=True), OrderRecorder()
    device.add_monitor(recorder)
    relay.stash([1], stream=forward, tokens=cells(1))
    kept = relay.gather([1], keep=True, stream=schedule)
    await relay.gather([1], stream=forward)
    assert recorder.races() == []
    assert (await kept)["tokens"].tolist() == [1]
    assert [str(write) for write in recorder.launches[-1].writes] == ["relay.tokens[1]"]
