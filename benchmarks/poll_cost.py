"""What one poll costs with few and with many waiters: it must not matter.

    python -m benchmarks.poll_cost

Spins over 4 streams, so that the loop does nothing but poll, and divides CPU time by polls.
"""

import asyncio
import time

import uvloop

from aio_sched.bench.emulated import TimedDevice
from streams.bridge import PollingBridge

_STREAMS = 4
_SECONDS = 0.3
_ROUNDS = 5


async def _poll_us(num_waiters: int) -> float:
    with TimedDevice(60_000.0) as device:  # nothing completes meanwhile
        streams = device.timed_streams(_STREAMS)
        async with PollingBridge("spin") as bridge:
            events = [streams[index % _STREAMS].enqueue() for index in range(num_waiters)]
            waits = [asyncio.ensure_future(bridge.wait(event)) for event in events]
            await asyncio.sleep(0)
            polls, cpu_s = bridge.stats.polls, time.process_time()
            await asyncio.sleep(_SECONDS)
            cost_s = (time.process_time() - cpu_s) / (bridge.stats.polls - polls)
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
    return 1e6 * cost_s


def main() -> None:
    """Print the least of several rounds in turns for each number of waiters."""
    costs: dict[int, list[float]] = {4: [], 10_000: []}
    for _ in range(_ROUNDS):
        for num_waiters, measured in costs.items():
            measured.append(uvloop.run(_poll_us(num_waiters)))
    few, many = (min(measured) for measured in costs.values())
    print(f"one poll of {_STREAMS} streams: 4 waiters {few:.1f} us, 10,000 waiters {many:.1f} us,")
    print(f"{many / few:.2f} times as much; each of the {_STREAMS} queries takes 1 us of it")


if __name__ == "__main__":
    main()
