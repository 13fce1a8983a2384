"""The polling bridge: the one place where the host waits for a device.

One bridge per event loop serves all waiters of all devices. Events of one stream
complete in order, so only the lowest awaited number of each stream is looked at:
a poll costs as much as there are streams, however many coroutines wait. A stream
that can call back is not polled at all, and while nobody waits nothing runs.
"""

import asyncio
import sys
import weakref
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from streams.bridge.board import Board
from streams.bridge.deadlines import check_timeout
from streams.bridge.lane import Waiter
from streams.bridge.stats import BridgeStats
from streams.bridge.wait_policy import WaitPolicy, wait_policy
from streams.errors import AioSchedError

if TYPE_CHECKING:
    from streams.event import Event

__all__ = ["BridgeClosedError", "BridgeStats", "PollingBridge", "running_bridge"]


class BridgeClosedError(AioSchedError, RuntimeError):
    """The bridge was closed while somebody waited, or was used after that."""


class PollingBridge:
    """Serves every coroutine of one event loop that waits for a device event.

    ``running_bridge()`` gives the loop's bridge and makes one where there is none,
    so nobody needs to construct one, except to choose a policy::

        async with PollingBridge("low_latency"):
            ...  # every await of a device event in this loop goes through it

    Bridges may be nested; a waiter stays with the bridge where it began. A bridge is
    closed by leaving the block, by ``aclose()``, or with its loop (by
    ``loop.shutdown_asyncgens()``, which ``asyncio.run`` and its like call). All
    methods belong to the loop's thread.

    Args:
        policy: ``"auto"``, ``"low_latency"``, ``"thread"``, ``"spin"`` or a
            ``WaitPolicy``; None takes the environment variable
            ``AIO_SCHED_WAIT_POLICY``, and ``"auto"`` without it.

    Raises:
        ValueError: no policy has this name.
        TypeError: neither a name nor a policy.
    """

    def __init__(self, policy: str | WaitPolicy | None = None) -> None:
        self.policy = wait_policy(policy)
        self.is_closed = False
        self._board: Board | None = None
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None

    def __repr__(self) -> str:
        stats = self.stats
        state = "closed" if self.is_closed else f"{stats.num_waiters} waiting"
        return f"<PollingBridge {self.policy.name!r}: {state} on {stats.num_streams} streams>"

    async def __aenter__(self) -> Self:
        self._bind()
        _installed.setdefault(asyncio.get_running_loop(), []).append(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def stats(self) -> BridgeStats:
        """What the bridge has done so far, and who waits now."""
        return BridgeStats() if self._board is None else self._board.stats

    async def wait(self, event: "Event", timeout: float | None = None) -> None:
        """Suspend until the device has reached ``event``; users write ``await event``.

        Cancelling the waiter leaves nothing behind here and changes nothing on the
        device. Waiters of one stream go on in the order of their events.

        Args:
            event: a recorded event.
            timeout: seconds to wait at most; None waits until cancelled.

        Raises:
            DeadlineError: not complete in time.
            EventNotRecordedError: nothing ever recorded the event.
            DeviceLostError: the device failed before it got there.
            DeviceClosedError: the device was closed before it got there.
            BridgeClosedError: the bridge was closed before, or meanwhile.
            ValueError: the timeout is not a number.
            Exception: what the device's query raised.
        """
        if timeout is not None:
            timeout = check_timeout(timeout)
        if event.recorded_on().completed >= event.number:
            return
        board = self._bind()
        waiter = Waiter(event, asyncio.get_running_loop().create_future(), timeout)
        try:
            board.admit(waiter)
            await waiter.future
        finally:
            board.dismiss(waiter)

    async def aclose(self) -> None:
        """Fail who still waits with ``BridgeClosedError``, stop timers and threads.

        Suspends until the bridge's threads have ended; one that is blocked in a
        driver is waited for ten seconds. Closing twice does nothing.
        """
        if self._board is None or self._board.closer is None:
            self.is_closed = True
        elif not self.is_closed:
            await self._board.closer.aclose()

    def _bind(self) -> Board:
        """Return the board, tied to the running loop at first use."""
        loop = asyncio.get_running_loop()
        if self.is_closed:
            raise BridgeClosedError(f"{self!r} cannot be used again; make another one")
        if self._board is None or self._loop is None:
            self._board = Board(loop, self.policy)
            self._loop = weakref.ref(loop)
            self._board.closer = _close_with_loop(self, self._board)
            _start(self._board.closer)
        elif self._loop() is not loop:
            raise RuntimeError(
                f"{self!r} belongs to another event loop; use running_bridge() in each loop"
            )
        return self._board

    def _uninstall(self) -> None:
        loop = None if self._loop is None else self._loop()
        bridges = [] if loop is None else _installed.get(loop, [])
        if self in bridges:
            bridges.remove(self)


async def _close_with_loop(bridge: PollingBridge, board: Board) -> AsyncGenerator[None, None]:
    """Close the bridge when the loop shuts its asynchronous generators down.

    The only hook that every way of ending a loop properly calls, while the loop can
    still wait for threads.
    """
    try:
        yield
    finally:
        bridge.is_closed = True
        bridge._uninstall()
        board.close(_closed_meanwhile)
        await board.threads_ended()


def _start(generator: AsyncGenerator[None, None]) -> None:
    """Run a generator to its first yield, so that the running loop knows of it.

    Without a finalizer hook: that would be a method of the loop, which the generator, and
    so the bridge, would keep alive for good.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=None)
    try:
        generator.__anext__().send(None)
    except StopIteration:
        return
    finally:
        sys.set_asyncgen_hooks(finalizer=hooks.finalizer)
    raise AssertionError("the generator suspended before its first yield")


def _closed_meanwhile(waiter: Waiter) -> BridgeClosedError:
    return BridgeClosedError(
        f"the bridge was closed while {waiter.event!r} was awaited; "
        "await what is outstanding before the bridge or its loop ends"
    )


# The bridges of a loop, the one in use last. A bridge holds its loop weakly, or the
# values here would keep their keys alive.
_installed: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[PollingBridge]]" = (
    weakref.WeakKeyDictionary()
)


def running_bridge() -> PollingBridge:
    """Return the running loop's bridge; make one, with the default policy, if need be.

    Raises:
        RuntimeError: no event loop runs on this thread.
        ValueError: ``AIO_SCHED_WAIT_POLICY`` names no policy.
    """
    loop = asyncio.get_running_loop()
    bridges = _installed.setdefault(loop, [])
    if not bridges:
        _forget_closed_loops()
        bridge = PollingBridge()
        bridge._bind()
        bridges.append(bridge)
    return bridges[-1]


def _forget_closed_loops() -> None:
    """Let go of loops that were closed over their waiters, whose futures hold them."""
    for ref in _installed.keyrefs():  # a copy: loops of other threads come and go
        loop = ref()
        if loop is not None and loop.is_closed():
            _installed.pop(loop, None)
