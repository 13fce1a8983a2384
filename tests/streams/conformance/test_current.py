"""Which stream is current: in a launch, in a block, and across the awaits of tasks."""

import asyncio

import pytest

from streams.current import current_stream, on_stream, use_stream
from streams.device import Device
from streams.stream import Stream
from tests.device_fixtures import Bench, HoldFactory
from tests.streams.conformance.work import BoomError


async def test_function_of_a_launch_runs_on_its_stream(device: Device, bench: Bench) -> None:
    """Inside the function both our current stream and torch's are the launch's."""
    one, two = device.stream("one"), device.stream("two")
    outside = bench.native_current(device)
    seen = [
        await stream.launch(lambda: (current_stream(), bench.native_current(device)))
        for stream in (one, two)
    ]
    assert [ours for ours, _ in seen] == [one, two]
    if outside is not None:
        assert len({hash(native) for native in (outside, *(native for _, native in seen))}) == 3
    assert current_stream() is None
    assert bench.native_current(device) == outside


async def test_nested_use_restores_stream_by_stream(device: Device, bench: Bench) -> None:
    """Blocks nest, and each gives back what it found, also when it raises."""
    one, two = device.stream("one"), device.stream("two")
    outside = bench.native_current(device)
    with use_stream(one):
        inside = bench.native_current(device)
        with use_stream(two), use_stream(two):
            assert current_stream() is two
        assert current_stream() is one
        assert bench.native_current(device) == inside
        with pytest.raises(BoomError), use_stream(two):
            raise BoomError
        assert current_stream() is one
    assert current_stream() is None
    assert bench.native_current(device) == outside


async def test_current_stream_stays_with_its_task(device: Device) -> None:
    """Interleaved tasks each see their own stream at every resume, and the loop sees none."""
    rounds = 5
    barrier = asyncio.Barrier(3)

    async def stage(stream: Stream) -> list[bool]:
        seen = []
        for _ in range(rounds):
            seen.append(current_stream() is stream)
            await barrier.wait()
        return seen

    async def outsider() -> list[bool]:
        seen = []
        for _ in range(rounds):
            seen.append(current_stream() is None)
            await barrier.wait()
        return seen

    one, two = device.stream("one"), device.stream("two")
    seen = await asyncio.gather(on_stream(one, stage(one)), on_stream(two, stage(two)), outsider())
    assert list(seen) == [[True] * rounds] * 3


async def test_awaiting_the_device_inside_on_stream_keeps_the_stream(
    device: Device, hold: HoldFactory
) -> None:
    """A stage may await device work and goes on under its own stream."""
    one, two = device.stream("one"), device.stream("two")
    held = hold(two)

    entered = asyncio.Event()

    async def stage() -> tuple[Stream | None, Stream | None]:
        before = current_stream()
        entered.set()
        await held.launch
        return before, current_stream()

    task = asyncio.ensure_future(on_stream(one, stage()))
    await entered.wait()
    assert current_stream() is None
    held.release()
    assert await task == (one, one)


async def test_nested_on_stream_restores_the_outer_one(device: Device) -> None:
    """A coroutine may run a part of itself on another stream."""
    one, two = device.stream("one"), device.stream("two")

    async def inner() -> Stream | None:
        await asyncio.sleep(0)
        return current_stream()

    async def outer() -> list[Stream | None]:
        seen = [current_stream(), await on_stream(two, inner()), current_stream()]
        await asyncio.sleep(0)
        return [*seen, current_stream()]

    assert await on_stream(one, outer()) == [one, two, one, one]


async def test_cancellation_reaches_a_coroutine_on_its_stream(device: Device) -> None:
    """``finally`` of a cancelled stage runs under the stage's stream; then none is current."""
    stream = device.stream("s")
    entered = asyncio.Event()
    seen: list[Stream | None] = []

    async def stage() -> None:
        try:
            entered.set()
            await asyncio.Event().wait()
        finally:
            seen.append(current_stream())
            await asyncio.sleep(0)
            seen.append(current_stream())

    task = asyncio.ensure_future(on_stream(stream, stage()))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [stream, stream]
    assert current_stream() is None


async def test_error_passes_through_on_stream(device: Device) -> None:
    """What the coroutine raises, its caller gets, and no stream stays current."""

    async def fail() -> None:
        await asyncio.sleep(0)
        raise BoomError

    with pytest.raises(BoomError):
        await on_stream(device.stream("s"), fail())
    assert current_stream() is None
