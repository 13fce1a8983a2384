"""What a virtual-clock event loop finds out about the program that it runs."""

from streams.errors import AioSchedError, DeadlockError

__all__ = ["DeadlockError", "LivelockError"]


class LivelockError(AioSchedError, RuntimeError):
    """The loop made more turns than it may; the text names the tasks that ran most."""
