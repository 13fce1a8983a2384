"""How busy everybody else kept the machine during a measurement.

Wake-ups are late where other processes want the same cores. Figures from such a run
are still side by side, but not what the machine can do; whoever reads them must know.
"""

import os
import time
from pathlib import Path

__all__ = ["Neighbours"]

_STAT = Path("/proc/stat")
_IDLE = (3, 4)  # columns of the first line: idle, iowait


class Neighbours:
    """Measures, from its making on, the CPU that other processes take.

    Args:
        stat: the kernel's accounting, Linux only; another file is for tests.
    """

    def __init__(self, stat: Path = _STAT) -> None:
        self._stat = stat
        self._start = self._now()

    def share(self) -> float | None:
        """Return their share of all cores since then, 0 to 1; None where unknown."""
        if self._start is None or (now := self._now()) is None:
            return None
        busy_s, own_s, wall_s = (b - a for a, b in zip(self._start, now, strict=True))
        return min(1.0, max(0.0, (busy_s - own_s) / (wall_s * (os.cpu_count() or 1))))

    def note(self) -> str:
        """Say it in a line for a table's foot."""
        share = self.share()
        if share is None:
            return "how busy other processes kept the machine is unknown here"
        return f"other processes took {share:.0%} of the machine's {os.cpu_count()} cores meanwhile"

    def _now(self) -> tuple[float, float, float] | None:
        try:
            fields = self._stat.read_text().split("\n", 1)[0].split()[1:9]
        except OSError:  # no Linux
            return None
        busy = sum(int(ticks) for column, ticks in enumerate(fields) if column not in _IDLE)
        return busy / os.sysconf("SC_CLK_TCK"), time.process_time(), time.perf_counter()
