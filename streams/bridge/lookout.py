"""What a virtual clock may ask of a bridge: is there news, and who waits.

In virtual time a poller whose streams nobody moves on would look for ever. The clock's
owner asks here before it lets the poller look, and finds out that it need not.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from streams.bridge.lane import Lane
from streams.bridge.poller import Poller

if TYPE_CHECKING:
    from streams.stream import Stream

__all__ = ["BridgeLookout"]


class BridgeLookout:
    """Looks at the lanes of one bridge, and lets nobody go on who got what he waits for.

    Args:
        lanes: all lanes, by stream.
        poller: knows which of them are polled; the others are called back.
        query: asks a stream for its counter.
        raised: told what a question raised; lets the lane's waiters fail with it.
    """

    def __init__(
        self,
        lanes: "Mapping[Stream, Lane]",
        poller: Poller,
        query: "Callable[[Stream, int], int]",
        raised: Callable[[Lane, Exception], object],
    ) -> None:
        self._lanes = lanes
        self._poller = poller
        self._query = query
        self._raised = raised

    def would_find(self) -> bool:
        """Whether a look at the polled lanes would find something now."""
        return any(self._has_news(lane) for lane in self._poller.lanes)

    def describe(self) -> list[str]:
        """Say who waits for which event, in order."""
        waiters = [waiter for lane in self._lanes.values() for waiter in lane.waiters]
        return [f"{waiter.event!r} of {waiter.event.recorded_on()!r}" for waiter in waiters]

    def _has_news(self, lane: Lane) -> bool:
        if lane.head is None:
            return False
        try:
            known = max(lane.stream.completed, lane.known_done)
            return known >= lane.head or self._query(lane.stream, lane.head) >= lane.head
        except Exception as error:  # as when the poller meets it; it might not meet it again
            self._raised(lane, error)
            return True
