"""How a coroutine waits for a device, without anybody blocking the loop's thread.

polling_bridge.py  ``PollingBridge``: one per event loop; nested, closed with the loop
board.py           all lanes of a loop: who waits, who is looked at, who is told
lane.py            the waiters of one stream, in order
poller.py          looks at streams when their time has come
wakeups.py         what other threads have to say to the loop
stream_thread.py   a thread that blocks for one stream
wait_policy.py     ``auto``, ``low_latency``, ``thread``, ``spin``, or the user's own
governed_pace.py   when to look at a stream; prediction.py foretells its completions
timer.py           timers finer than the loop's own
deadlines.py       one timer for the deadlines of all waiters
wait_errors.py     what a waiter is told that waited in vain
lookout.py         what a loop in virtual time asks: can polling find anything at all?
stats.py           counters
"""

from streams.bridge.polling_bridge import (
    BridgeClosedError,
    BridgeStats,
    PollingBridge,
    running_bridge,
)

__all__ = ["BridgeClosedError", "BridgeStats", "PollingBridge", "running_bridge"]
