"""aio-sched: keep an accelerator busy from inside an asyncio service.

The loop     loop.py (overlapped, sequential), turn.py, lifecycle.py, barrier.py
What you write   stages.py: ``Pipeline``; step.py: ``Step``, which its stages are given
What you see     monitor.py, trace/, metrics/, loop_lag.py
On top       engine/ (continuous batching of a language model), parallel/ (several ranks),
             speculative/ (draft and verify), disaggregated/ (prefill here, decode there)
To try it    cli.py, demo.py, bench/
To prove it  testing/: virtual time, schedules by seed; the checker is ``streams.hazards``

Device streams are in ``streams``, memory that crosses steps in ``buffers``; import
everything from here.
"""

from aio_sched._siblings import check_siblings

check_siblings()

# The siblings are checked before anything imports them.
# ruff: noqa: E402, F403
import buffers
import streams
from aio_sched import disaggregated, parallel
from aio_sched.barrier import WarBarrier, WarPolicy
from aio_sched.config import SchedulerConfig
from aio_sched.disaggregated import *
from aio_sched.engine.constrained import Automaton, Constraint, JsonSchema, Regex
from aio_sched.engine.engine import Engine
from aio_sched.engine.errors import (
    ConstraintError,
    EngineBusyError,
    PromptError,
    RequestAbortedError,
    RequestBusyError,
    RequestFailedError,
)
from aio_sched.engine.experts import MixtureTransformer, load_mixture
from aio_sched.engine.requests import FinishReason, Request, SamplingParams
from aio_sched.engine.weights import load_draft, load_model
from aio_sched.errors import (
    InboxFullError,
    PipelineBusyError,
    SchedulerClosedError,
    StageTypeError,
    StepAbortedError,
)
from aio_sched.inbox import Inbox
from aio_sched.loop import OverlapScheduler, SequentialScheduler
from aio_sched.loop_lag import LoopLagMonitor
from aio_sched.metrics import SchedulerStats
from aio_sched.monitor import SchedulerMonitor
from aio_sched.parallel import *
from aio_sched.speculative.drafter import Drafter, HiddenDrafter
from aio_sched.speculative.engine import SpeculativeEngine
from aio_sched.speculative.errors import DraftModelError
from aio_sched.speculative.heads import DraftHeads, HeadsDrafter, load_heads
from aio_sched.speculative.lookup import LookupDrafter
from aio_sched.stages import HostCopy, Pipeline, Step
from aio_sched.trace import TraceRecorder
from buffers import *
from streams import *

__all__ = [
    "Automaton",
    "Constraint",
    "ConstraintError",
    "DraftHeads",
    "DraftModelError",
    "Drafter",
    "Engine",
    "EngineBusyError",
    "FinishReason",
    "HeadsDrafter",
    "HiddenDrafter",
    "HostCopy",
    "Inbox",
    "InboxFullError",
    "JsonSchema",
    "LookupDrafter",
    "LoopLagMonitor",
    "MixtureTransformer",
    "OverlapScheduler",
    "Pipeline",
    "PipelineBusyError",
    "PromptError",
    "Regex",
    "Request",
    "RequestAbortedError",
    "RequestBusyError",
    "RequestFailedError",
    "SamplingParams",
    "SchedulerClosedError",
    "SchedulerConfig",
    "SchedulerMonitor",
    "SchedulerStats",
    "SequentialScheduler",
    "SpeculativeEngine",
    "StageTypeError",
    "Step",
    "StepAbortedError",
    "TraceRecorder",
    "WarBarrier",
    "WarPolicy",
    "load_draft",
    "load_heads",
    "load_mixture",
    "load_model",
]
__all__ += parallel.__all__
__all__ += disaggregated.__all__
__all__ += buffers.__all__
__all__ += streams.__all__
