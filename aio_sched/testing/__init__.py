"""Test kit: programs in virtual time, under any order of their tasks.

virtual_loop.py  ``VirtualLoop``: time that jumps, deadlocks that are found at once
run.py           ``virtual_run``: ``asyncio.run`` on such a loop
strategies.py    in which order the ready tasks run; turns.py applies it
observers.py     who caused what, for checkers; groups.py for those who leave a task group
wait_graph.py    the text of a deadlock

And programs explored: scenarios that run pipelines on a simulated device.

trial.py         ``Trial``: what a scenario is given; ``run_once``: one run of it
schedule.py      ``Schedule``: all that decides what happens in a run
explore.py       ``explore``, ``assert_same_results``: many runs, judged
finding.py       ``Finding``: what was wrong, its replay, its picture
shrink.py        a finding made simpler; compare.py: whether two results are the same
await_points.py  where a run is cut short; calls.py: which device calls it made
command.py       ``aio-sched explore``

The fixtures for pytest are in ``aio_sched_pytest.py``, which must not import torch.
"""

from aio_sched.testing.await_points import StagePoint
from aio_sched.testing.errors import DeadlockError, LivelockError
from aio_sched.testing.explore import (
    Exploration,
    ExplorationError,
    Finding,
    assert_same_results,
    explore,
)
from aio_sched.testing.observers import LoopObserver
from aio_sched.testing.outcome import Outcome
from aio_sched.testing.run import virtual_run
from aio_sched.testing.schedule import CancelKind, Schedule
from aio_sched.testing.strategies import (
    Choice,
    DelayOne,
    FifoOrder,
    Order,
    PctOrder,
    RandomOrder,
    Replay,
)
from aio_sched.testing.trial import Scenario, Trial, run_once
from aio_sched.testing.virtual_loop import VirtualLoop
from streams.clock import VirtualClock
from streams.simulated import Fault, FaultKind, FaultPlan, SimProfile

__all__ = [
    "CancelKind",
    "Choice",
    "DeadlockError",
    "DelayOne",
    "Exploration",
    "ExplorationError",
    "Fault",
    "FaultKind",
    "FaultPlan",
    "FifoOrder",
    "Finding",
    "LivelockError",
    "LoopObserver",
    "Order",
    "Outcome",
    "PctOrder",
    "RandomOrder",
    "Replay",
    "Scenario",
    "Schedule",
    "SimProfile",
    "StagePoint",
    "Trial",
    "VirtualClock",
    "VirtualLoop",
    "assert_same_results",
    "explore",
    "run_once",
    "virtual_run",
]
