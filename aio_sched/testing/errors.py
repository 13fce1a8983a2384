"""What a virtual-clock event loop finds out about the program that it runs."""

from streams.errors import AioSchedError

__all__ = ["DeadlockError", "LivelockError"]


class DeadlockError(AioSchedError, RuntimeError):
    """Nothing can ever run again; the text says who waits, where and for what."""


class LivelockError(AioSchedError, RuntimeError):
    """The loop made more turns than it may; the text names the tasks that ran most."""
