"""Runs that measure how late coroutines wake, what that costs, and what it does to the loop."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aio_sched.bench.emulated import TimedDevice, TimedStream
from aio_sched.bench.rivals import Rival
from streams.bridge.timer import open_timer

__all__ = ["Config", "Samples", "WakeRun"]

_TICK_NS = 1_000_000
_LAG_SHARE = 0.4


@dataclass(frozen=True)
class Config:
    """A load: waiters spread over streams that complete an event per interval."""

    waiters: int
    streams: int
    interval_ms: float

    @classmethod
    def parse(cls, text: str) -> "Config":
        """Read ``"8/4/5"``: waiters, streams, milliseconds.

        Raises:
            ValueError: not of that form, or a figure is out of range.
        """
        try:
            waiters, streams, interval = text.split("/")
            config = cls(int(waiters), int(streams), float(interval))
        except ValueError as error:
            raise ValueError(
                f"configuration {text!r} is not waiters/streams/interval_ms, as 8/4/5 is"
            ) from error
        if config.waiters < 0 or config.streams < 1 or config.interval_ms <= 0:
            raise ValueError(
                f"configuration {text!r} needs waiters >= 0, streams >= 1 and an interval > 0"
            )
        return config

    def __str__(self) -> str:
        return f"{self.waiters}/{self.streams}/{self.interval_ms:g}"


@dataclass
class Samples:
    """What the runs of one row measured, gathered."""

    wake_ns: list[int] = field(default_factory=list)
    lag_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0

    @property
    def cpu_percent(self) -> float:
        """CPU time of the process, all threads; 100 is one core."""
        return round(100 * self.cpu_s / self.wall_s, 2)


class WakeRun:
    """One short run of one row, for a loop of its own.

    Args:
        config: the load.
        device: where it runs; closed at the end.
        make_rival: how to wait, made inside the loop; None for the ticker alone.
        seconds: to measure.
        samples: where to put what was measured.
    """

    def __init__(
        self,
        config: Config,
        device: TimedDevice,
        make_rival: Callable[[], Rival] | None,
        seconds: float,
        samples: Samples,
    ) -> None:
        self._config = config
        self._device = device
        self._make_rival = make_rival
        self._seconds = seconds
        self._samples = samples
        self._wake_ns: list[int] = []

    async def measure(self) -> None:
        """Measure wake latency and CPU, then, beside a ticker, the loop's lag."""
        rival = self._make_rival() if self._make_rival is not None else None
        tasks = self._start(rival) if rival is not None else []
        # Until all waiters have started, what piled up meanwhile is done, and the policy has
        # seen a few completions of each stream.
        await asyncio.sleep(0)
        warm_up_s = (0.15, 10 * self._config.interval_ms / 1e3, 40e-6 * self._config.waiters)
        await asyncio.sleep(max(warm_up_s))
        await self._measure_waking()
        await self._measure_lag()
        await _cancelled(tasks)
        self._device.close()
        if rival is not None:
            await rival.close()

    def _start(self, rival: Rival) -> list["asyncio.Task[None]"]:
        streams = self._device.timed_streams(self._config.streams)
        if self._config.waiters == 0:
            return [asyncio.ensure_future(_serve(streams, rival))]
        return [
            asyncio.ensure_future(self._wait_on(streams[index % len(streams)], rival))
            for index in range(self._config.waiters)
        ]

    async def _wait_on(self, stream: TimedStream, rival: Rival) -> None:
        while True:
            event = stream.enqueue()
            await rival.wait(event)
            self._wake_ns.append(time.perf_counter_ns() - stream.take_done_ns(event.number))

    async def _measure_waking(self) -> None:
        self._wake_ns.clear()
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        await asyncio.sleep(self._seconds * (1 - _LAG_SHARE))
        self._samples.cpu_s += time.process_time() - cpu_s
        self._samples.wall_s += time.perf_counter() - wall_s
        self._samples.wake_ns += self._wake_ns

    async def _measure_lag(self) -> None:
        ticker = _Ticker(self._samples.lag_s)
        await asyncio.sleep(self._seconds * _LAG_SHARE)
        ticker.close()


class _Ticker:
    """Notes, every millisecond, how late the running loop gets to it.

    The loop's own timers would hide what is to be seen: they round to a millisecond, and
    up or down depends on what else wakes the loop.
    """

    def __init__(self, lag_s: list[float]) -> None:
        self._lag_s = lag_s
        self._timer = open_timer(asyncio.get_running_loop(), self._tick)
        self._due_ns = time.monotonic_ns()
        self._arm()

    def close(self) -> None:
        """Tick no more."""
        self._timer.close()

    def _tick(self) -> None:
        self._lag_s.append(max(0, time.monotonic_ns() - self._due_ns) / 1e9)
        self._arm()

    def _arm(self) -> None:
        # From the former moment on, not from now: ticks that a stall has held up are late, too.
        self._due_ns += _TICK_NS
        self._timer.arm(self._due_ns)


async def _serve(streams: Sequence[TimedStream], rival: Rival) -> None:
    """Let a bridge that is idle from now on be one that has worked."""
    for stream in streams:
        for _ in range(8):
            await rival.wait(stream.enqueue())


async def _cancelled(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
