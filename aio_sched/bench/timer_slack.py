"""Sleeping on time: threads that stand in for a device wake as its interrupt would."""

import ctypes
import sys
import threading

__all__ = ["wake_on_time"]

_PR_SET_TIMERSLACK = 29


class _Thread(threading.local):
    is_prompt = False


_thread = _Thread()


def wake_on_time() -> None:
    """Take the kernel's timer slack (50 us as a rule) off the calling thread.

    Only Linux has such a slack to take; elsewhere this does nothing.
    """
    if sys.platform == "linux" and not _thread.is_prompt:
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
        _thread.is_prompt = True
