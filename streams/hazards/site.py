"""The line of the user's code that a report names."""

import asyncio
import os
import sys
from types import FrameType

import torch

from streams.guard import CallSite

__all__ = ["call_site"]


def call_site() -> CallSite | None:
    """Find the innermost line that is neither torch's, asyncio's nor machinery of ours.

    What lies in a folder below ``aio_sched`` (the engine, a benchmark) is a user of the
    machinery like any other. None if there is no such line on this stack: the event loop
    called the machinery directly.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        is_ours = _known.get(file)
        if is_ours is None:
            is_ours = _known[file] = _is_machinery(file)
        if not is_ours:
            return CallSite(file, frame.f_lineno)
        frame = frame.f_back
    return None


def _is_machinery(file: str) -> bool:
    folder = os.path.dirname(os.path.abspath(file))
    if file.startswith("<") or folder == _CORE:
        return True
    return any(os.path.join(folder, "").startswith(root) for root in _FOLDERS)


def _folder(path: str | None) -> str:
    return os.path.dirname(os.path.abspath(path or ""))


_STREAMS = os.path.dirname(_folder(__file__))
_ROOT = os.path.dirname(_STREAMS)
_CORE = os.path.join(_ROOT, "aio_sched")
_FOLDERS = tuple(
    os.path.join(path, "")
    for path in (
        _STREAMS,
        os.path.join(_ROOT, "buffers"),
        os.path.join(_CORE, "testing"),
        _folder(asyncio.__file__),
        _folder(torch.__file__),
    )
)
# By file name, whether it is machinery; as many entries as there are source files.
_known: dict[str, bool] = {}
