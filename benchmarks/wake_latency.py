"""How late coroutines learn of real device work, by each way of waiting.

Like ``aio-sched bench bridge``, with a device in place of the emulated one: kernels of
known length (on the CPU device: sleeps), and their completion as ``completion_clock``
dates it. Every way of waiting also issues the work, so CPU figures contain that.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

from aio_sched.bench.device_work import DeviceWork, device_worker
from aio_sched.bench.report import percentiles
from aio_sched.bench.rivals import RIVALS, BridgeRival, Rival
from aio_sched.loop_lag import LoopLagMonitor
from benchmarks.completion_clock import CompletionClock, Stamp, completion_clock
from streams.device import Device, open_device
from streams.stream import Stream

__all__ = ["LOADS", "WAYS", "WakeLoad", "wake_rows"]

_BRIDGES = ("auto", "low_latency", "thread", "spin")
WAYS = (*_BRIDGES, *RIVALS)
"""The bridge's policies, then what others do."""

_LAG_SHARE = 0.4
_MOST_PATIENCE_S = 20.0


class WakeLoad(NamedTuple):
    """Waiters spread over streams, each of which completes a piece of work per interval."""

    waiters: int
    streams: int
    interval_ms: float


LOADS = (WakeLoad(8, 4, 5.0), WakeLoad(64, 16, 20.0), WakeLoad(16, 4, 1.0), WakeLoad(2, 1, 0.2))


def wake_rows(
    device: str,
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]],
    *,
    loads: Sequence[WakeLoad] = LOADS,
    ways: Sequence[str] = WAYS,
    seconds: float = 1.0,
) -> list[dict[str, Any]]:
    """Measure each way of waiting under each load on each loop; one row each.

    Rows are those of ``bench bridge`` with the device's name. Blocks the thread.
    """
    with open_device(device) as opened:
        worker = device_worker(opened)
        clock = completion_clock(opened)
        rows = []
        for load, (loop, factory), way in product(loads, loops.items(), ways):
            work = worker(load.interval_ms / 1e3)
            run = _Run(opened, clock, load, work, seconds)
            with asyncio.Runner(loop_factory=factory) as runner:
                measured = runner.run(run.measure(way))
            rows.append({"device": opened.name, "policy": way, "loop": loop, **measured})
    return rows


@dataclass
class _Run:
    """One way of waiting under one load."""

    device: Device
    clock: CompletionClock
    load: WakeLoad
    work: DeviceWork
    seconds: float
    woken: list[tuple[Stamp, float]] = field(default_factory=list)

    async def measure(self, way: str) -> dict[str, Any]:
        streams = [self.device.stream(f"wake{index}") for index in range(self.load.streams)]
        rival = BridgeRival(way) if way in _BRIDGES else RIVALS[way]()
        self.clock.start()
        tasks = [
            asyncio.create_task(self._wait_on(streams[index % len(streams)], rival))
            for index in range(self.load.waiters)
        ]
        # A policy that predicts has to have seen some completions.
        await asyncio.sleep(max(0.1, 10 * self.load.interval_ms / 1e3))
        cpu_percent = await self._wake()
        async with LoopLagMonitor() as monitor:
            await asyncio.sleep(self.seconds * _LAG_SHARE)
            lag_ms = monitor.summary().as_ms()
        await _cancelled(tasks)
        await self.device.drain()
        self.clock.stop()
        await rival.close()
        for stream in streams:
            stream.close()
        return {
            **self.load._asdict(),
            "wake_us": percentiles(self._late_us(), 1),
            "cpu_percent": round(cpu_percent, 2),
            "loop_lag_ms": {name: round(value, 4) for name, value in lag_ms.items()},
        }

    async def _wait_on(self, stream: Stream, rival: Rival) -> None:
        while True:
            stamp = self.clock.stamp()
            launch = stream.launch(self._work_and_mark, self.work.queued(), stamp)
            await rival.wait(launch.event)
            self.woken.append((stamp, time.perf_counter()))

    @staticmethod
    def _work_and_mark(work: Callable[[None], None], stamp: Stamp) -> None:
        work(None)
        stamp.mark()

    async def _wake(self) -> float:
        """Collect wake-ups for a while; return the CPU that this took, 100 is one core.

        A machine that is too busy for a single one gets more time, up to a limit.
        """
        self.woken.clear()
        cpu_s, start_s = time.process_time(), time.perf_counter()
        await asyncio.sleep(self.seconds * (1 - _LAG_SHARE))
        while not self.woken and time.perf_counter() < start_s + _MOST_PATIENCE_S:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # an event would make each wake-up dearer, and it is measured
        self._collected = list(self.woken)
        return 100 * (time.process_time() - cpu_s) / (time.perf_counter() - start_s)

    def _late_us(self) -> list[float]:
        reached_s = self.clock.reached_s
        return [(woken_s - reached_s(stamp)) * 1e6 for stamp, woken_s in self._collected]


async def _cancelled(tasks: "Sequence[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
