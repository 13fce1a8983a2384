"""What can go wrong with a device, its streams and the waits on them.

A caller's mistake is a ``ValueError`` or ``TypeError``; a state of the device is
a ``RuntimeError``; a wait that ran out of time is a ``TimeoutError``.
"""

__all__ = [
    "AioSchedError",
    "CaptureOpenError",
    "DeadlineError",
    "DeadlockError",
    "DeviceClosedError",
    "DeviceLostError",
    "DeviceUnavailableError",
    "EventNotRecordedError",
    "HostBlockedError",
    "LaunchAbortedError",
    "LaunchNotCompleteError",
    "NotIssuerError",
    "StreamAliasError",
    "TorchModeOpenError",
    "UnknownDeviceError",
]


class AioSchedError(Exception):
    """Base of every error that this library raises on its own account."""


class UnknownDeviceError(AioSchedError, ValueError):
    """The device name is none that this library knows."""


class DeviceUnavailableError(AioSchedError, RuntimeError):
    """The device name is right, but this machine has no such device."""


class DeviceClosedError(AioSchedError, RuntimeError):
    """The device was closed, or opened in the parent of a forked process."""


class DeviceLostError(AioSchedError, RuntimeError):
    """The device failed for good: no launch will ever complete on it again."""


class EventNotRecordedError(AioSchedError, RuntimeError):
    """An event was awaited, queried or waited for that no stream ever recorded."""


class LaunchAbortedError(AioSchedError, RuntimeError):
    """A launch raised what is no ``Exception``: a cancellation, an exit of the process."""


class LaunchNotCompleteError(AioSchedError, RuntimeError):
    """The value of a launch was asked for before the device had finished it."""


class DeadlineError(AioSchedError, TimeoutError):
    """A device event did not complete within the time that its waiter allowed."""


class DeadlockError(AioSchedError, RuntimeError):
    """Somebody waits for what can never happen: nothing is left that could bring it about."""


class StreamAliasError(AioSchedError, RuntimeError):
    """The device hands out native streams that are not distinct."""


class CaptureOpenError(AioSchedError, RuntimeError):
    """A host wait or a launch was asked for on a thread that captures a graph."""


class HostBlockedError(AioSchedError, RuntimeError):
    """A call would have blocked the event loop's thread on the device."""


class NotIssuerError(AioSchedError, RuntimeError):
    """A device call came from another task than the one that owns the stream."""


class TorchModeOpenError(AioSchedError, RuntimeError):
    """A coroutine suspended inside a torch mode, which is the thread's and would leak."""
