"""What a scheduler and its device did, recorded to be looked at.

recorder.py   ``TraceRecorder``: collects, and writes either form
recording.py  what was recorded, in order
chrome.py     as a trace for ui.perfetto.dev and chrome://tracing
timeline.py   as a picture of a window of steps; timeline_svg.py, timeline_style.py
              and svg.py draw it
"""

from aio_sched.trace.recorder import TraceRecorder
from aio_sched.trace.timeline import Window, draw_timeline

__all__ = ["TraceRecorder", "Window", "draw_timeline"]
