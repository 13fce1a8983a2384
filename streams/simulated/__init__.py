"""The simulated device: the same verbs as every device, in virtual time, by seed.

device.py    ``SimDevice``; users call ``open_device("sim", seed=..., profile=...)``
profile.py   ``SimProfile``: how long work takes, and what kind of device it resembles
faults.py    ``FaultPlan``: what goes wrong, and where
latch.py     ``Latch``: work that lasts until it is released
progress.py  who waits for whom, for a report of a deadlock
stream.py    a stream: asking, blocking, calling back
queue.py     a hardware queue: what runs when
sampling.py  what a launch reads, as it was at some moment while the launch ran
neutral.py   functions called as if on a thread of their own
timeline.py  which clock, and who moves it on
"""

from streams.simulated.device import SimDevice
from streams.simulated.faults import Fault, FaultKind, FaultPlan, InjectedFaultError
from streams.simulated.latch import Latch
from streams.simulated.profile import PROFILES, SimProfile
from streams.simulated.progress import can_progress, stuck_report, wait_cycle
from streams.simulated.stream import SimStream

__all__ = [
    "PROFILES",
    "Fault",
    "FaultKind",
    "FaultPlan",
    "InjectedFaultError",
    "Latch",
    "SimDevice",
    "SimProfile",
    "SimStream",
    "can_progress",
    "stuck_report",
    "wait_cycle",
]
