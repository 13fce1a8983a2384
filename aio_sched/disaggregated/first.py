"""Running several things until the first of them ends."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from aio_sched.uninterrupted import uninterrupted

__all__ = ["cancelled", "until_first"]


async def until_first(*coros: Coroutine[Any, Any, None]) -> None:
    """Run coroutines as tasks until one has ended, cancel the others, and wait for them.

    Raises:
        Exception: what one that ended raised, of several the first in order.
    """
    tasks = [asyncio.create_task(coro) for coro in coros]
    ended: list[asyncio.Task[None]] = []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in tasks if task.done()]
    finally:
        await cancelled(tasks)
    for task in ended:
        task.result()


async def cancelled(tasks: Iterable["asyncio.Task[None]"]) -> None:
    """Cancel tasks and see them to their ends; what they raise is theirs."""
    tasks = tuple(tasks)
    for task in tasks:
        task.cancel()
    await uninterrupted(asyncio.create_task(_ends(tasks)))


async def _ends(tasks: tuple["asyncio.Task[None]", ...]) -> None:
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # or asyncio would say that nobody has looked at it
