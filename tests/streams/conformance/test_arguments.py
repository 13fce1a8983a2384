"""What a launch is given: values of other launches, and memory that must outlive it."""

import gc
import weakref
from typing import Any, NamedTuple

import pytest
import torch

from streams.device import Device
from streams.launch import Launch
from tests.device_fixtures import Bench, Cells, HoldFactory
from tests.streams.conformance.work import BoomError, add_all, append, boom, copy_of, fill, nothing


class Pair(NamedTuple):
    """Two arguments in one."""

    left: Any
    right: Any


async def test_launch_as_argument_gives_its_value(device: Device, cells: Cells) -> None:
    """A later launch of the same stream sees the value of an earlier one."""
    stream = device.stream("s")
    filled = stream.launch(fill, cells(0), 4)
    assert (await stream.launch(append, filled, 2)).tolist() == [42]


async def test_launch_of_another_stream_as_argument_adds_the_wait(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """Taking a value across streams orders the two streams without a further word."""
    producer, consumer, cell = device.stream("producer"), device.stream("consumer"), cells(0)
    held = hold(producer)
    filled = producer.launch(fill, cell, 9, writes=[cell])
    copied = consumer.launch(copy_of, filled)
    assert not copied.query()
    held.release()
    assert (await copied).tolist() == [9]


@pytest.mark.parametrize(
    "nest",
    [
        pytest.param(lambda launch: (launch,), id="tuple"),
        pytest.param(lambda launch: [launch], id="list"),
        pytest.param(lambda launch: {"key": launch}, id="dict"),
        pytest.param(lambda launch: Pair(launch, launch), id="named tuple"),
        pytest.param(lambda launch: [({"key": (launch,)},)], id="nested"),
    ],
)
async def test_launch_inside_containers_is_found(
    device: Device, hold: HoldFactory, cells: Cells, nest: Any
) -> None:
    """Containers of launches arrive as the same containers of values, and are waited for."""
    producer, consumer = device.stream("producer"), device.stream("consumer")
    held = hold(producer)
    filled = producer.launch(fill, cells(0), 3)

    def first_value(nested: Any) -> torch.Tensor:
        assert type(nested) is type(nest(None))
        while not isinstance(nested, torch.Tensor):
            nested = next(iter(nested.values() if isinstance(nested, dict) else nested))
        return nested.clone()

    seen = consumer.launch(first_value, nest(filled))
    assert not seen.query()
    held.release()
    assert (await seen).tolist() == [3]


async def test_launch_as_keyword_argument_is_found(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """Keyword arguments are treated like positional ones."""
    producer, consumer = device.stream("producer"), device.stream("consumer")
    held = hold(producer)
    filled = producer.launch(fill, cells(0), 3)

    def keyword_only(*, cell: torch.Tensor) -> torch.Tensor:
        return cell.clone()

    seen = consumer.launch(keyword_only, cell=filled)
    assert not seen.query()
    held.release()
    assert (await seen).tolist() == [3]


async def test_launches_of_two_streams_join(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """A launch with arguments from two streams runs after both."""
    left, right, stream = device.stream("left"), device.stream("right"), device.stream("s")
    holds = hold(left), hold(right)
    total = stream.launch(add_all, left.launch(fill, cells(0), 1), right.launch(fill, cells(0), 2))
    holds[0].release()
    await holds[0].launch
    assert not total.query()
    holds[1].release()
    assert (await total).tolist() == [3]


async def test_launch_of_another_device_as_argument_is_refused(
    device: Device, bench: Bench
) -> None:
    """Values do not cross devices, and the refusal leaves the stream as it was."""
    stream = device.stream("s")
    with bench.open() as other:
        foreign = other.stream("s").launch(nothing)
        await foreign
        with pytest.raises(ValueError, match="cannot wait for"):
            stream.launch(copy_of, foreign)
    await stream.launch(nothing)


async def test_arguments_live_until_the_device_has_used_them(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """The caller may drop its references at once; afterwards nothing keeps them."""
    stream, cell = device.stream("s"), cells(5)
    ref = weakref.ref(cell)
    held = hold(stream)
    copied = stream.launch(copy_of, cell, reads=[cell])
    del cell
    gc.collect()
    assert ref() is not None
    held.release()
    assert (await copied).tolist() == [5]
    assert ref() is None


async def test_value_taken_across_streams_lives_until_its_reader_is_done(
    device: Device, hold: HoldFactory, cells: Cells
) -> None:
    """A value outlives its producer's queue for as long as another stream may read it."""
    producer, consumer = device.stream("producer"), device.stream("consumer")
    made = producer.launch(copy_of, cells(6))
    ref = weakref.ref(await made)
    held = hold(consumer)
    copied = consumer.launch(copy_of, made)
    del made
    await producer.launch(nothing)
    assert ref() is not None
    held.release()
    assert (await copied).tolist() == [6]
    await consumer.launch(nothing)
    assert ref() is None


async def test_arguments_of_a_failed_launch_are_let_go(device: Device, cells: Cells) -> None:
    """An error that somebody keeps does not keep the memory of the launch that raised it."""
    stream, cell = device.stream("s"), cells(1)
    ref = weakref.ref(cell)

    def fail(tensor: torch.Tensor) -> None:
        local = tensor + 1
        raise BoomError(f"boom on {local.device}")

    failed = stream.launch(fail, cell)
    del cell
    with pytest.raises(BoomError) as caught:
        await failed
    await stream.launch(nothing)
    assert caught.value is not None
    assert ref() is None


async def test_value_of_a_dropped_launch_is_let_go(device: Device, cells: Cells) -> None:
    """A value that nobody took does not outlive the work."""
    stream = device.stream("s")
    refs: list[weakref.ref[torch.Tensor]] = []

    def make(cell: torch.Tensor) -> torch.Tensor:
        made = cell.clone()
        refs.append(weakref.ref(made))
        return made

    stream.launch(make, cells(1))
    await stream.launch(nothing)
    await stream.launch(nothing)
    assert [ref() for ref in refs] == [None]


async def test_launch_used_twice_keeps_its_value(device: Device, cells: Cells) -> None:
    """A launch may be awaited, read and passed on any number of times."""
    stream, other = device.stream("s"), device.stream("other")
    filled = stream.launch(fill, cells(0), 8)
    assert (await filled).tolist() == (await filled).tolist() == filled.result().tolist() == [8]
    copies: list[Launch[torch.Tensor]] = [other.launch(copy_of, filled) for _ in range(2)]
    assert [(await copy).tolist() for copy in copies] == [[8], [8]]


async def test_dependent_of_a_failed_launch_never_runs(device: Device, cells: Cells) -> None:
    """The function of a dependent is not called, on whichever stream it is."""
    stream, other, cell = device.stream("s"), device.stream("other"), cells(0)
    failed = stream.launch(boom)
    for dependent in (stream.launch(append, cell, failed), other.launch(append, cell, failed)):
        with pytest.raises(BoomError):
            await dependent
    assert cell.tolist() == [0]
