"""Small pieces of device work whose results show in which order they ran."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import torch

from streams.event import Event
from streams.launch import Launch

__all__ = [
    "BoomError",
    "add_all",
    "append",
    "boom",
    "copy_of",
    "fill",
    "nothing",
    "until",
    "waiting",
]


class BoomError(Exception):
    """What a launch raises when a case wants it to fail."""


def nothing() -> None:
    """Do no work."""


def boom() -> NoReturn:
    """Fail."""
    raise BoomError("boom")


def append(cell: torch.Tensor, digit: int) -> torch.Tensor:
    """Write ``digit`` behind the decimal digits of ``cell``."""
    return cell.mul_(10).add_(digit)


def fill(cell: torch.Tensor, value: int) -> torch.Tensor:
    """Set ``cell`` to ``value``."""
    return cell.fill_(value)


def copy_of(cell: torch.Tensor) -> torch.Tensor:
    """Return a copy of ``cell`` as it is when the device gets here."""
    return cell.clone()


def add_all(*cells: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``cells``."""
    return torch.stack(cells).sum(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait, without blocking the loop, for what another thread is about to do."""
    while not condition():  # noqa: ASYNC110  # the other thread knows no loop
        await asyncio.sleep(0)


@asynccontextmanager
async def waiting(
    what: Event | Launch[Any], timeout: float | None = None
) -> AsyncIterator[asyncio.Task[object]]:
    """Give a task that is suspended waiting for ``what`` by the time the block begins."""
    entered = asyncio.Event()

    async def wait() -> object:
        entered.set()
        return await what.wait(timeout)

    task = asyncio.create_task(wait())
    await entered.wait()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
