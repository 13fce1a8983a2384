"""One round of ``bench loop``: a pipeline under one schedule, or its device work alone."""

import time
from dataclasses import dataclass
from typing import Any

from aio_sched.bench.blocking import BlockingScheduler
from aio_sched.bench.device_work import Worker
from aio_sched.bench.host_work import HostWork
from aio_sched.bench.pipelines import (
    Busy,
    CopyPipeline,
    CountedPipeline,
    EmptyPipeline,
    LaunchPipeline,
    Measured,
)
from aio_sched.lifecycle import Scheduler
from aio_sched.loop import OverlapScheduler, SequentialScheduler
from aio_sched.loop_lag import LagSummary, LoopLagMonitor
from streams.device import Device

__all__ = ["SCHEDULES", "Load", "Rig", "Round"]

SCHEDULES: dict[str, type[Scheduler]] = {
    "overlap": OverlapScheduler,
    "sequential": SequentialScheduler,
    "blocking": BlockingScheduler,
}

# While the launches of an ideal run are enqueued, other work holds their stream; this is
# more than enqueueing one takes.
_ENQUEUE_S = 0.0001
_HELD_S = 0.005


@dataclass(frozen=True)
class Load:
    """What every step does.

    Attributes:
        device_s: how long the device works; 0 stands for stages that do nothing.
        host_s: CPU time of the loop's thread in prepare.
        num_steps: steps that one round measures.
    """

    device_s: float
    host_s: float
    num_steps: int


@dataclass(frozen=True)
class Round:
    """One round of one schedule.

    Attributes:
        measured: what its pipeline saw.
        lag: how late the loop was meanwhile.
        ideal_s: what the device work of as many steps took by itself.
    """

    measured: Measured
    lag: LagSummary
    ideal_s: float

    @property
    def steps_per_s(self) -> float:
        """Steps published per second."""
        return self.measured.num_steps / self.measured.wall_s

    @property
    def ideal_ratio(self) -> float:
        """Share of the time that the device work alone would have taken."""
        return self.ideal_s / self.measured.wall_s

    @property
    def device_busy(self) -> float:
        """Share of the time in which the forward stream worked."""
        # A step that ends before its neighbour is published counts for both.
        return min(1.0, self.measured.busy_s / self.measured.wall_s)

    @property
    def overheads_s(self) -> list[float]:
        """What a step took beyond its device work, for each batch of steps."""
        ideal_s = self.ideal_s / self.measured.num_steps
        return [step_s - ideal_s for step_s in self.measured.batches_s]


@dataclass(frozen=True)
class Rig:
    """What a benchmark runs on.

    Attributes:
        device: an open device, which stays open.
        worker: makes device work for it.
        host: does the host work.
        depth: steps in flight.
        copies: whether steps also write a table and copy their results to the host.
    """

    device: Device
    worker: Worker
    host: HostWork
    depth: int
    copies: bool = False

    def ideal_s(self, load: Load) -> float:
        """Time the device work of a round, queued back to back, with no host in between.

        Runs on a stream of the same device, and blocks the calling thread.
        """
        if load.device_s == 0:
            return 0.0
        work = self.worker(load.device_s)
        stream = self.device.stream("ideal")
        held = stream.launch(self.worker(_HELD_S + load.num_steps * _ENQUEUE_S).queued(), 0)
        launches = [stream.launch(work.queued(), index) for index in range(load.num_steps)]
        stream.block_until(held.event.number)
        start_s = time.perf_counter()
        stream.block_until(launches[-1].event.number)
        end_s = time.perf_counter()
        stream.close()
        return end_s - start_s

    async def run(self, schedule: str, load: Load, ideal_s: float) -> Round:
        """Run the pipeline once under a schedule.

        Raises:
            Exception: what a stage or the device raised.
        """
        pipeline = self._pipeline(load)
        async with SCHEDULES[schedule](pipeline, self.device, depth=self.depth):
            await pipeline.warm.wait()
            async with LoopLagMonitor() as monitor:
                await pipeline.ended.wait()
                lag = monitor.summary()
        if pipeline.error is not None:
            raise pipeline.error
        return Round(pipeline.measured(), lag, ideal_s)

    def _pipeline(self, load: Load) -> CountedPipeline[Any, Any]:
        if load.device_s == 0:
            return EmptyPipeline(load.num_steps, self.depth)
        busy = Busy(self.host, load.host_s, self.worker(load.device_s))
        if self.copies:
            return CopyPipeline(load.num_steps, self.depth, busy, self.device)
        return LaunchPipeline(load.num_steps, self.depth, busy)
