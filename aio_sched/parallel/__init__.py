"""Several ranks that serve together: what they exchange, and what each decides from it.

group.py         ``RankGroup``: the contract of a group of ranks
frames.py        what travels: of one size, says what it is about, is checked alike by all
exchange.py      what every group does alike, whatever carries its frames
in_process.py    ``InProcessRanks``: ranks of one event loop, for tests and simulations
errors.py        what can go wrong between ranks
"""

from aio_sched.parallel.errors import (
    FrameError,
    RankBusyError,
    RankGroupClosedError,
    RankGroupMissingError,
    RankLostError,
    RankMismatchError,
)
from aio_sched.parallel.frames import MAX_KIND, MAX_VALUES
from aio_sched.parallel.group import RankGroup
from aio_sched.parallel.in_process import InProcessRanks

__all__ = [
    "MAX_KIND",
    "MAX_VALUES",
    "FrameError",
    "InProcessRanks",
    "RankBusyError",
    "RankGroup",
    "RankGroupClosedError",
    "RankGroupMissingError",
    "RankLostError",
    "RankMismatchError",
]
