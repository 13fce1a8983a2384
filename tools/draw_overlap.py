"""Draw docs/images/overlap.svg: the same six steps, overlapped and sequentially.

python tools/draw_overlap.py [out.svg]

Runs a pipeline whose device work takes 6 ms and whose prepare and publish take 2 ms and
1 ms of host time, under both schedulers, and draws what was recorded.
"""

import asyncio
import hashlib
import sys
import time
from pathlib import Path
from typing import Any

from aio_sched import HostCopy, OverlapScheduler, Pipeline, SequentialScheduler, Step
from aio_sched.trace import TraceRecorder, Window, draw_timeline

NUM_STEPS, FIRST, LAST = 20, 8, 13
BLOCK = bytes(65536)


def work_on_host(seconds: float) -> None:
    """Keep this thread busy, without the GIL for most of the time."""
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        hashlib.sha256(BLOCK)


class Demonstration(Pipeline[int, HostCopy]):
    """Work of known length in each stage."""

    def __init__(self) -> None:
        self.num_prepared = 0
        self.done = asyncio.Event()

    async def prepare(self, step: Step) -> int | None:
        """Take 2 ms of the host."""
        if self.num_prepared == NUM_STEPS:
            return None
        work_on_host(0.002)
        self.num_prepared += 1
        return self.num_prepared

    async def forward(self, step: Step, inputs: int) -> HostCopy:
        """Take 6 ms of the device."""
        return step.copy_to_host(step.launch(time.sleep, 0.006))

    async def publish(self, step: Step, inputs: int, output: HostCopy) -> None:
        """Take 1 ms of the host once the result is there."""
        await output
        work_on_host(0.001)
        if inputs == NUM_STEPS:
            self.done.set()


async def window(kind: Any, title: str) -> Window:
    """Run one schedule, and cut some steps out of its middle."""
    pipeline, trace = Demonstration(), TraceRecorder()
    async with kind(pipeline, "cpu", monitors=(trace,)):
        await pipeline.done.wait()
    return Window.of(trace.recording(), steps=(FIRST, LAST), title=title)


out = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/overlap.svg")
windows = [
    asyncio.run(window(OverlapScheduler, "overlapped")),
    asyncio.run(window(SequentialScheduler, "sequential")),
]
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(draw_timeline(windows), encoding="utf-8")
print(f"wrote {out}")
