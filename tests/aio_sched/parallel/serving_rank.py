"""One rank in a process of its own: random arrivals, until the ranks have made enough steps.

Run as ``python -m tests.aio_sched.parallel.serving_rank`` with one JSON object as argument; its
last line is a JSON object, too.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

from aio_sched.engine.errors import EngineBusyError, RequestFailedError
from aio_sched.engine.model import ByteTransformer, ModelConfig
from aio_sched.engine.requests import SamplingParams
from aio_sched.errors import SchedulerClosedError
from aio_sched.parallel.delayer import DelayerLimits
from aio_sched.parallel.engine import DataParallelEngine
from aio_sched.parallel.errors import RankLostError, RankMismatchError
from aio_sched.parallel.joining import open_rank_group
from streams.device import open_device

__all__ = ["Job"]

SMALL = ModelConfig(d_model=8, num_layers=1, num_heads=1, d_hidden=8, max_len=32)


@dataclass(frozen=True)
class Job:
    """What a rank is to do.

    Attributes:
        steps: batches after which it leaves.
        delayer: whether prefills are delayed.
        odd_step: the batch at which rank 1 does ``odd``; never if negative.
        odd: ``"SIGKILL"``, ``"SIGSTOP"``, ``"diverge"`` or ``"leave"``.
        farewell_s: of rank 1; see ``DataParallelEngine``.
    """

    rank: int
    size: int
    address: str
    steps: int
    delayer: bool = True
    timeout_s: float = 5.0
    odd_step: int = -1
    odd: str = ""
    farewell_s: float = 30.0


class Ends(Counter[str]):
    """How many requests ended how, and when the first one failed."""

    failed_at = 0.0


async def main(job: Job) -> dict[str, Any]:
    """Serve random requests; return what came of it."""
    group = await open_rank_group(
        rank=job.rank, size=job.size, address=job.address, timeout_s=job.timeout_s
    )
    ends = Ends()
    began_s, error = time.monotonic(), ""
    with open_device("cpu") as device:
        engine = DataParallelEngine(
            ByteTransformer(SMALL).requires_grad_(False),
            device,
            group,
            max_running=4,
            max_waiting=8,
            prefill_rows=2,
            chunk=4,
            delayer=DelayerLimits(4, enabled=job.delayer, max_passes=4),
            rank_check=True,
            farewell_s=job.farewell_s if job.rank == 1 else 30.0,
        )
        try:
            async with engine, asyncio.TaskGroup() as tasks:
                await arrive(job, engine, ends, tasks)
        except* (RankLostError, RankMismatchError) as errors:
            [lost] = errors.exceptions
            error = f"{type(lost).__name__}: {lost}"
    stats = engine.rank_stats
    return {
        "rank": job.rank,
        "seconds": round(time.monotonic() - began_s, 3),
        "passes": stats.passes,
        "batches": stats.batches,
        "idle": stats.idle_batches,
        "refusals": stats.delayer.refusals,
        "digest": stats.digest,
        "epoch": group.epoch,
        "error": error,
        "failed_at": ends.failed_at,
        "ends": dict(ends),
    }


async def arrive(
    job: Job, engine: DataParallelEngine, ends: Ends, tasks: asyncio.TaskGroup
) -> None:
    """Submit random requests in bursts, until enough steps are made."""
    dice = random.Random(f"arrivals/{job.rank}")
    while engine.rank_stats.batches < job.steps and not engine.scheduler.is_stopping:
        await asyncio.sleep(dice.choice([0.0, 0.001, 0.01, 0.05]))
        for _ in range(dice.randint(0, 4)):
            prompt = bytes(dice.choices(range(1, 11), k=dice.randint(1, 9)))
            tasks.create_task(read(engine, prompt, dice.randint(1, 12), ends))
        if 0 <= job.odd_step <= engine.rank_stats.batches and job.rank == 1:
            if job.odd == "leave":
                return
            misbehave(job, engine)


def misbehave(job: Job, engine: DataParallelEngine) -> None:
    """Die, hang, or decide something else than the other ranks."""
    if job.odd == "diverge":
        engine.pipeline._consensus.note("odd", 1)
        return
    tell({"struck_at": time.time()})
    os.kill(os.getpid(), signal.Signals[job.odd])


def tell(what: dict[str, Any]) -> None:
    """Write a line for whoever started this process."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def read(engine: DataParallelEngine, prompt: bytes, max_tokens: int, ends: Ends) -> None:
    """Read one request to its end, and count how it ended."""
    try:
        request = engine.submit(prompt, SamplingParams(max_tokens))
    except (EngineBusyError, SchedulerClosedError) as error:
        ends[type(error).__name__] += 1
        return
    try:
        async for _ in engine.stream(request):
            pass
        ends["whole"] += 1
    except RequestFailedError as error:
        ends[f"failed by {type(error.__cause__).__name__}"] += 1
        ends.failed_at = ends.failed_at or time.time()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tell(asyncio.run(main(Job(**json.loads(sys.argv[1])))))
