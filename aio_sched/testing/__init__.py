"""Test kit: programs in virtual time, under any order of their tasks.

virtual_loop.py  ``VirtualLoop``: time that jumps, deadlocks that are found at once
run.py           ``virtual_run``: ``asyncio.run`` on such a loop
strategies.py    in which order the ready tasks run; turns.py applies it
observers.py     who caused what, for checkers; groups.py for those who leave a task group
wait_graph.py    the text of a deadlock
"""

from aio_sched.testing.errors import DeadlockError, LivelockError
from aio_sched.testing.observers import LoopObserver
from aio_sched.testing.run import virtual_run
from aio_sched.testing.strategies import (
    Choice,
    DelayOne,
    FifoOrder,
    Order,
    PctOrder,
    RandomOrder,
    Replay,
)
from aio_sched.testing.virtual_loop import VirtualLoop
from streams.clock import VirtualClock

__all__ = [
    "Choice",
    "DeadlockError",
    "DelayOne",
    "FifoOrder",
    "LivelockError",
    "LoopObserver",
    "Order",
    "PctOrder",
    "RandomOrder",
    "Replay",
    "VirtualClock",
    "VirtualLoop",
    "virtual_run",
]
