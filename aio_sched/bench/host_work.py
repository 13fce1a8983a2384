"""Host work that takes the event loop's thread for a given time.

It is counted in CPU time of the thread, so that a busy machine makes it longer but
never less. In slices, with a turn of the loop between them, as a prepare should be
written that has other coroutines beside it.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Literal, get_args

__all__ = ["HOST_WORK_KINDS", "HostWork", "HostWorkKind"]

HostWorkKind = Literal["native", "python"]
HOST_WORK_KINDS: tuple[str, ...] = get_args(HostWorkKind)

# hashlib gives the GIL up from 2,048 bytes on; so many take some microseconds.
_SMALLEST = 4096
_BUFFER = memoryview(bytes(1 << 20))
_CALIBRATION_RUNS = 5


class HostWork:
    """Occupies the loop's thread and one core.

    Args:
        kind: ``"native"`` gives up the GIL while it works, as numpy, tokenizers or
            a driver do; threads that stand in for a device are not disturbed.
            ``"python"`` holds it: on the CPU device, whose streams are threads of this
            process, the device's own work then waits for it.
        slice_s: CPU time between two turns of the loop.

    Raises:
        ValueError: no such kind, or the slice is not positive.
    """

    def __init__(self, kind: HostWorkKind = "native", slice_s: float = 0.00025) -> None:
        if kind not in HOST_WORK_KINDS:
            raise ValueError(
                f"host work {kind!r} is unknown; use one of {', '.join(HOST_WORK_KINDS)}"
            )
        if slice_s <= 0:
            raise ValueError(f"slice_s={slice_s} is not positive")
        self.kind = kind
        self.slice_s = slice_s
        self._chunk: Callable[[float], object] = _hashing() if kind == "native" else _count

    def __repr__(self) -> str:
        return f"<HostWork {self.kind}, slices of {self.slice_s * 1e3:g} ms>"

    async def occupy(self, cpu_s: float) -> None:
        """Work until this has taken ``cpu_s`` seconds of the thread's CPU time.

        What other tasks take in between does not count. Nothing is left behind by a
        cancellation.
        """
        left_s = cpu_s
        while left_s > 0:
            left_s -= self._work(min(left_s, self.slice_s))
            if left_s > 0:
                await asyncio.sleep(0)

    def _work(self, cpu_s: float) -> float:
        start_s = time.thread_time()
        while (spent_s := time.thread_time() - start_s) < cpu_s:
            self._chunk(cpu_s - spent_s)
        return spent_s


def _hashing() -> Callable[[float], object]:
    """Return what hashes for nearly a given CPU time, in one call: few calls, few GIL switches."""
    once_s = min(_hash_time_s() for _ in range(_CALIBRATION_RUNS))
    bytes_per_s = len(_BUFFER) / max(once_s, 1e-6)  # some platforms count in large steps

    def hash_for(cpu_s: float) -> object:
        size = int(0.9 * cpu_s * bytes_per_s)
        return hashlib.sha256(_BUFFER[: max(_SMALLEST, size)])

    return hash_for


def _hash_time_s() -> float:
    start_s = time.thread_time()
    hashlib.sha256(_BUFFER)
    return time.thread_time() - start_s


def _count(cpu_s: float) -> object:
    return sum(range(200))
