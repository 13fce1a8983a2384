"""A wake-up for one waiter that is never lost and never counted."""

import asyncio

from streams.hazards import handoff

__all__ = ["Wakeup"]


class Wakeup:
    """A flag that one task sleeps on; setting it twice wakes once.

    Like ``asyncio.Event`` with the clearing built in, so that a signal given while
    the waiter is busy is found when it next sleeps.
    """

    __slots__ = ("__weakref__", "_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the waiter, or let its next ``wait`` return at once."""
        handoff(self)  # nobody is woken if nobody sleeps
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        """Forget a signal that was not yet waited for."""
        handoff(self)
        self._is_set = False

    async def wait(self) -> None:
        """Sleep until the flag is set, then clear it."""
        while not self._is_set:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        handoff(self)
        self._is_set = False
