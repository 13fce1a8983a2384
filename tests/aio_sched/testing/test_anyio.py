"""anyio in virtual time: task groups, cancel scopes, deadlines, streams."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest

from aio_sched.testing import DeadlockError, VirtualLoop


def _run(main: Callable[[], Awaitable[object]], seed: int = 0) -> object:
    factory = partial(VirtualLoop, seed)
    return anyio.run(main, backend="asyncio", backend_options={"loop_factory": factory})


@pytest.fixture(params=range(10))
def seed(request: pytest.FixtureRequest) -> int:
    """Orders in which the tasks run."""
    seed: int = request.param
    return seed


def test_deadlines_pass_in_virtual_time(seed: int) -> None:
    """``fail_after`` and ``move_on_after`` end at their time, and not before."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            with anyio.fail_after(60):
                await anyio.sleep_forever()
        with anyio.move_on_after(40) as scope:
            await anyio.sleep(1000)
        assert scope.cancelled_caught
        with anyio.fail_after(10):
            await anyio.sleep(9)
        assert anyio.current_time() == 109

    _run(main, seed)


def test_task_group_cancels_its_children(seed: int) -> None:
    """An error ends the group, and every child sees it."""

    async def main() -> None:
        ended: list[int] = []

        async def child(number: int) -> None:
            try:
                await anyio.sleep(math.inf)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(number)
                ended.append(number)

        async def fail() -> None:
            await anyio.sleep(5)
            raise ValueError("end")

        with pytest.raises(ExceptionGroup):
            async with anyio.create_task_group() as group:
                for number in range(5):
                    group.start_soon(child, number)
                group.start_soon(fail)
        assert ended == [*range(5)]
        assert anyio.current_time() == 9

    _run(main, seed)


def test_memory_stream_and_limiter(seed: int) -> None:
    """What is sent arrives once, in order, over a stream that holds little."""

    async def main() -> None:
        send, receive = anyio.create_memory_object_stream[int](2)
        limiter = anyio.CapacityLimiter(1)
        received: list[int] = []

        async def producer() -> None:
            async with send:
                for number in range(10):
                    await send.send(number)

        async def consumer() -> None:
            async with receive:
                async for number in receive:
                    async with limiter:
                        await anyio.sleep(1)
                        received.append(number)

        async with anyio.create_task_group() as group:
            group.start_soon(producer)
            group.start_soon(consumer)
        assert received == [*range(10)]

    _run(main, seed)


def test_native_cancel_within_anyio(seed: int) -> None:
    """``Task.cancel`` from outside goes through scopes as it does on any loop."""

    async def main() -> None:
        async def victim() -> None:
            with anyio.CancelScope():
                await anyio.sleep_forever()

        task = asyncio.create_task(victim())
        await anyio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    _run(main, seed)


def test_deadlock_under_anyio_names_tasks_and_places() -> None:
    """The report knows the task group's children, and where the user's code waits."""

    async def main() -> None:
        event = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(event.wait, name="waiter")

    with pytest.raises(DeadlockError) as caught:
        _run(main)
    assert "'waiter' at" in str(caught.value)
    assert "test_anyio.py:" in str(caught.value)
