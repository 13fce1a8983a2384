"""``KVLink``: how the two sides talk; here within one process."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque

from aio_sched.disaggregated.errors import LinkClosedError, PeerLostError
from aio_sched.disaggregated.messages import Message
from streams.hazards import handoff

__all__ = ["KVLink", "local_link"]


class KVLink(ABC):
    """One end of a link; one task sends, and one receives.

    Attributes:
        peer: names the other side in errors.
        max_body: bytes that the rows of one request may have; whoever knows its model lowers it.
            Counts where rows travel as bytes.
    """

    peer: str
    max_body: int = 1 << 30

    @abstractmethod
    async def send(self, message: Message) -> None:
        """Give a message to the other side, behind those before it.

        Returns when the link has taken it, which is not before it has room. A sender that is
        cancelled half-way leaves an end that can only be closed.

        Raises:
            PeerLostError: the other side is gone.
            LinkClosedError: this end is closed.
        """

    @abstractmethod
    async def receive(self) -> Message:
        """Return the next message; waits for it as long as it takes.

        Raises:
            PeerLostError: the other side is gone without a ``Bye``.
            LinkProtocolError: what came is no message, or one that is too large.
            PeerMismatchError: it comes from another version of this library.
            LinkClosedError: this end is closed.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close this end; the other side loses its peer, unless it was told ``Bye``."""


def local_link(
    names: tuple[str, str] = ("prefill", "decode"), *, capacity: int = 16
) -> tuple[KVLink, KVLink]:
    """Make the two ends of a link within one event loop.

    Messages are handed on as they are: nothing is copied.

    Args:
        names: of the two sides, for errors.
        capacity: messages that may be on their way in one direction; sending one more waits.

    Raises:
        ValueError: ``capacity`` is below 1.
    """
    if capacity < 1:
        raise ValueError(f"capacity={capacity} lets no message through; use at least 1")
    near, far = _LocalLink(names[1], capacity), _LocalLink(names[0], capacity)
    near.other, far.other = far, near
    return near, far


class _LocalLink(KVLink):
    other: "_LocalLink"

    def __init__(self, peer: str, capacity: int) -> None:
        self.peer = peer
        self._capacity = capacity
        self._came: deque[Message] = deque()
        self._is_closed = False
        self._changed: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<KVLink to {self.peer!r} in this process: {len(self._came)} to be received>"

    async def send(self, message: Message) -> None:
        other = self.other
        while not self._is_closed and not other._is_closed and other._is_full:
            await other._change()
        self._check_open()
        if other._is_closed:
            raise PeerLostError(f"{self.peer} has closed its end of the link; start it again")
        handoff(message)
        other._came.append(message)
        other._tell()

    async def receive(self) -> Message:
        while not self._is_closed and not self._came and not self.other._is_closed:
            await self._change()
        self._check_open()
        if not self._came:
            raise PeerLostError(f"{self.peer} has closed its end of the link; start it again")
        message = self._came.popleft()
        handoff(message)
        self._tell()
        return message

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._came = deque()
            self._tell()
            self.other._tell()

    @property
    def _is_full(self) -> bool:
        return len(self._came) >= self._capacity

    def _check_open(self) -> None:
        if self._is_closed:
            raise LinkClosedError(f"this end of the link to {self.peer} is closed; make another")

    async def _change(self) -> None:
        """Sleep until something is told; at most one sender and one receiver do."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed.append(waiter)
        try:
            await waiter
        finally:
            self._changed.remove(waiter)

    def _tell(self) -> None:
        for waiter in self._changed:
            if not waiter.done():
                waiter.set_result(None)
