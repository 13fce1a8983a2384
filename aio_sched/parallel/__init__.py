"""Several ranks that serve together: what they exchange, and what each decides from it.

group.py         ``RankGroup``: the contract of a group of ranks
frames.py        what travels: of one size, says what it is about, is checked alike by all
exchange.py      what every group does alike, whatever carries its frames
in_process.py    ``InProcessRanks``: ranks of one event loop, for tests and simulations
joining.py       ``open_rank_group``: how a process becomes a rank
distributed.py   ``TorchRankGroup``: ranks in processes, over torch.distributed
links.py         a process group and its tensors; works.py awaits its collectives
meeting_place.py the store through which ranks find each other; threads.py asks it
selection.py     ``choose_group``: the host's group, the device's, or none
errors.py        what can go wrong between ranks

engine.py        ``DataParallelEngine``: one rank of a service whose ranks step together
pipeline.py      its stages: a pass with the other ranks in each prepare
membership.py    asleep until one rings, leaving, going on with fewer
global_batch.py  what all ranks run in a step (pure); batch_sync.py gathers it
consensus.py     do all decide the same, and who did not first; decision_log.py (pure)

slices.py        ``local_slice``: which rows of a gathered batch are this rank's (pure)
prefill_delayer.py  ``PrefillDelayer``: one exchange a pass on whether to prefill
delayer.py       the policy behind it (pure); delayer_stats.py what it has decided (pure)
"""

from aio_sched.parallel.batch_sync import BatchSync
from aio_sched.parallel.consensus import RankConsensus, RankDivergedError
from aio_sched.parallel.delayer import DelayerLimits
from aio_sched.parallel.delayer_stats import DelayerStats
from aio_sched.parallel.engine import DataParallelEngine
from aio_sched.parallel.errors import (
    FrameError,
    RankBusyError,
    RankGroupClosedError,
    RankGroupMissingError,
    RankLostError,
    RankMismatchError,
)
from aio_sched.parallel.frames import MAX_KIND, MAX_VALUES
from aio_sched.parallel.global_batch import GlobalBatch, Mode, RankState, SyncPolicy
from aio_sched.parallel.group import RankGroup
from aio_sched.parallel.in_process import InProcessRanks
from aio_sched.parallel.joining import open_rank_group
from aio_sched.parallel.pipeline import DataParallelPipeline, RankStats
from aio_sched.parallel.prefill_delayer import PrefillDelayer, RankLoad
from aio_sched.parallel.selection import RankSync, choose_group
from aio_sched.parallel.slices import Layout, local_slice

__all__ = [
    "MAX_KIND",
    "MAX_VALUES",
    "BatchSync",
    "DataParallelEngine",
    "DataParallelPipeline",
    "DelayerLimits",
    "DelayerStats",
    "FrameError",
    "GlobalBatch",
    "InProcessRanks",
    "Layout",
    "Mode",
    "PrefillDelayer",
    "RankBusyError",
    "RankConsensus",
    "RankDivergedError",
    "RankGroup",
    "RankGroupClosedError",
    "RankGroupMissingError",
    "RankLoad",
    "RankLostError",
    "RankMismatchError",
    "RankState",
    "RankStats",
    "RankSync",
    "SyncPolicy",
    "choose_group",
    "local_slice",
    "open_rank_group",
]
