"""Device streams and events, and how a coroutine waits for them.

device.py       what a machine has: ``open_device``, ``Device``, ``Platform``
stream.py       ``Stream``: a FIFO queue of device work
launch.py       ``Launch``: what is put there, and the place for its value
event.py        ``Event``: a point on a stream's timeline
current.py      the current stream, also across ``await``
cpu.py          the CPU device: a FIFO worker thread per stream
accelerator/    every ``torch.accelerator`` device (CUDA, ROCm, XPU, ...)
simulated/      the simulated device: virtual time, schedules and faults by seed
lifetime.py     open devices at exit and across a fork
failure.py      what a launch raised
bridge/         ``PollingBridge``: the one place where the host waits for a device
guard/          ``HostBlockGuard``: blocking the loop's thread is an error
hazards/        ``HazardChecker``: accesses that conflict and that nothing orders
monitor.py      what traces and checkers are told
errors.py       what can go wrong

Imports neither ``buffers`` nor ``aio_sched``. Users import from ``aio_sched``.
"""

from streams.bridge import PollingBridge
from streams.current import current_stream, use_stream
from streams.device import Capabilities, Device, Platform, open_device
from streams.errors import (
    AioSchedError,
    CaptureOpenError,
    DeadlineError,
    DeviceClosedError,
    DeviceLostError,
    DeviceUnavailableError,
    EventNotRecordedError,
    HostBlockedError,
    LaunchAbortedError,
    LaunchNotCompleteError,
    NotIssuerError,
    StreamAliasError,
    TorchModeOpenError,
    UnknownDeviceError,
)
from streams.event import Event
from streams.guard import HostBlockGuard, allow_blocking
from streams.hazards import AccessAudit, HazardChecker, HazardError, handoff
from streams.launch import Launch
from streams.monitor import DeviceMonitor, Span, host_reads, host_writes
from streams.stream import Stream

__all__ = [
    "AccessAudit",
    "AioSchedError",
    "Capabilities",
    "CaptureOpenError",
    "DeadlineError",
    "Device",
    "DeviceClosedError",
    "DeviceLostError",
    "DeviceMonitor",
    "DeviceUnavailableError",
    "Event",
    "EventNotRecordedError",
    "HazardChecker",
    "HazardError",
    "HostBlockGuard",
    "HostBlockedError",
    "Launch",
    "LaunchAbortedError",
    "LaunchNotCompleteError",
    "NotIssuerError",
    "Platform",
    "PollingBridge",
    "Span",
    "Stream",
    "StreamAliasError",
    "TorchModeOpenError",
    "UnknownDeviceError",
    "allow_blocking",
    "current_stream",
    "handoff",
    "host_reads",
    "host_writes",
    "open_device",
    "use_stream",
]

__aio_sched__ = "0.1.0"
