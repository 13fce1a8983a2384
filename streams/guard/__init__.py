"""Calls that block the event loop's thread on a device, seen and refused.

host_block.py      ``HostBlockGuard``, scoped to tasks; ``allow_blocking``
blocking_calls.py  the verbs that are watched, and what escapes
tensor_waits.py    which calls on tensors wait for their device
"""

from streams.guard.host_block import CallSite, HostBlockGuard, allow_blocking, check_blocking

__all__ = ["CallSite", "HostBlockGuard", "allow_blocking", "check_blocking"]
