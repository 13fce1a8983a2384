"""``copy_to_host``: copies that never make the host wait."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from buffers.transfer import copy_to_host, host_copy, to_device
from streams.device import Device
from tests.device_fixtures import Cells, HoldFactory


class Sampled(NamedTuple):
    """What a forward may return."""

    tokens: Tensor
    step: int


async def test_copy_of_launch_waits_for_it_on_the_device(
    device: Device, cells: Cells, hold: HoldFactory
) -> None:
    """The copy is enqueued while its source is still being computed, and sees the result."""
    forward, copy = device.stream("forward"), device.stream("copy")
    source = cells(1, 2)
    held = hold(forward)
    doubled = forward.launch(lambda: source * 2)
    launch = copy_to_host(copy, doubled)
    assert not launch.query()
    held.release()
    assert (await launch).tolist() == [2, 4]


async def test_copy_belongs_to_the_caller(device: Device, cells: Cells) -> None:
    """Neither a later write to the source nor another copy changes what was copied."""
    stream = device.stream("copy")
    source = cells(1, 2)
    first = await copy_to_host(stream, source)
    await stream.launch(source.fill_, 9)
    second = await copy_to_host(stream, source)
    first[0] = 5
    assert first.device.type == "cpu"
    assert (first.tolist(), second.tolist()) == ([5, 2], [9, 9])


async def test_copy_keeps_the_structure(device: Device, cells: Cells) -> None:
    """Tuples, named tuples, lists and dicts come back as such; other leaves pass through."""
    stream = device.stream("copy")
    value = {
        "sampled": Sampled(cells(1), 7),
        "list": [cells(2), None],
        "pair": (stream.launch(lambda: "label"), cells(3)),
    }
    copied = await copy_to_host(stream, value)
    assert copied == {
        "sampled": Sampled(torch.tensor([1]), 7),
        "list": [torch.tensor([2]), None],
        "pair": ("label", torch.tensor([3])),
    }
    assert isinstance(copied["sampled"], Sampled)


async def test_copy_of_view_is_contiguous_and_detached(device: Device) -> None:
    """A transposed result that requires grad arrives as plain memory."""
    stream = device.stream("copy")

    def transposed() -> Tensor:
        weights = torch.arange(6.0, device=device.torch_device, requires_grad=True)
        return weights.reshape(2, 3).t()

    copied = await copy_to_host(stream, stream.launch(transposed))
    assert copied.is_contiguous()
    assert not copied.requires_grad
    assert copied.tolist() == [[0, 3], [1, 4], [2, 5]]


async def test_copy_of_failed_launch_raises_its_error(device: Device) -> None:
    """The error of a forward reaches whoever awaits the copy of its result."""
    forward, copy = device.stream("forward"), device.stream("copy")

    def broken() -> Tensor:
        raise ValueError("no such expert")

    with pytest.raises(ValueError, match="no such expert"):
        await copy_to_host(copy, forward.launch(broken))


def test_copy_ignores_default_device_of_application() -> None:
    """Host memory is host memory, whatever torch's default device is where the copy is issued."""
    source = torch.tensor([4])
    with torch.device("meta"):
        copied = host_copy(source, pin=False)
    assert copied.tolist() == [4]


def test_to_device_returns_what_is_there_already(device: Device, cells: Cells) -> None:
    """A tensor of the device is not copied again."""
    tensor = cells(1)
    assert to_device(device, tensor) is tensor
