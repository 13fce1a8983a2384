"""Seeing a task to its end although the one who awaits it is cancelled."""

import asyncio
from typing import Any

import anyio

__all__ = ["uninterrupted"]


async def uninterrupted(task: "asyncio.Task[Any]") -> None:
    """Await ``task`` to its end, and only then let a cancellation through.

    A shield alone does not do: a native ``Task.cancel`` cuts through anyio's, and
    an anyio scope that is cancelled cancels again at every await.
    """
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
