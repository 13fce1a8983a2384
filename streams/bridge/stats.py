"""What a bridge tells about itself."""

from typing import NamedTuple

__all__ = ["BridgeStats"]


class BridgeStats(NamedTuple):
    """What a bridge has done so far, and what it has to do.

    Attributes:
        polls: rounds over the streams that are polled.
        queries: ``Stream.advance`` calls.
        wakeups: times that a stream or a thread woke the loop.
        timer_arms: times that the timer was set.
        num_waiters: coroutines that wait now.
        num_streams: streams that they wait for.
    """

    polls: int = 0
    queries: int = 0
    wakeups: int = 0
    timer_arms: int = 0
    num_waiters: int = 0
    num_streams: int = 0
