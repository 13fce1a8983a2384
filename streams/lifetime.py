"""What becomes of open devices when the process ends or forks."""

import os
import threading
from typing import Protocol

__all__ = ["close_at_exit", "forget"]


class OpenDevice(Protocol):
    """What this module asks of a device."""

    def close(self) -> None:
        """Stop its threads and give back what it holds."""

    def disown(self) -> None:
        """Become unusable: this is a forked child, and the device stayed in the parent."""


# Keeps an open device alive: its work may still run when nobody refers to it any more.
_open: dict[OpenDevice, None] = {}


def close_at_exit(device: OpenDevice) -> None:
    """Close ``device`` at the end of the process, unless it was closed before."""
    _open[device] = None


def forget(device: OpenDevice) -> None:
    """Leave ``device`` alone from now on: it is closed."""
    _open.pop(device, None)


def _close_all() -> None:
    for device in reversed(tuple(_open)):
        device.close()


def _disown_all() -> None:
    for device in tuple(_open):
        device.disown()
    _open.clear()


# Plain atexit runs only after all non-daemon threads were joined, which would hang on the
# threads of a device that nobody closed; concurrent.futures uses the same hook.
threading._register_atexit(_close_all)  # type: ignore[attr-defined]  # private, see above
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
