"""When a device ran something, in the host's time."""

import time

import torch

__all__ = ["DeviceClock"]

_ROLL_AFTER_S = 1.0


class DeviceClock:
    """Maps the times of a stream's events to ``time.perf_counter``.

    A device tells only the time between two of its events. The clock measures from an
    anchor, an event whose completion the host has seen. The anchor moves along, since
    torch gives the distance as a 32-bit float of milliseconds (half a minute away from
    the anchor its steps are 2 us, an hour away 250 us), and since the two clocks drift:
    a launch cannot have started before it was issued, nor ended after it was seen
    complete, and what contradicts that corrects the anchor.

    Args:
        anchor: a completed event with timing, recorded last and seen complete just now.
    """

    def __init__(self, anchor: torch.Event) -> None:
        self._anchor = anchor
        self._anchor_s = time.perf_counter()
        self._last_end_s = 0.0

    def measure(
        self, start: torch.Event, end: torch.Event, issued_s: float, seen_s: float
    ) -> tuple[float, float]:
        """Return start and end in seconds of ``time.perf_counter``.

        Args:
            start: recorded before the work; complete.
            end: recorded behind the work; complete.
            issued_s: when the host had not yet issued it.
            seen_s: when the host knew that it was complete.
        """
        start_s = self._anchor_s + self._anchor.elapsed_time(start) / 1e3
        duration_s = start.elapsed_time(end) / 1e3
        drift_s = max(issued_s - start_s, 0.0) or min(seen_s - start_s - duration_s, 0.0)
        self._anchor_s += drift_s
        # A stream runs one launch after the other, also where a correction lies between them.
        start_s = max(start_s + drift_s, self._last_end_s)
        self._last_end_s = start_s + duration_s
        return start_s, self._last_end_s

    def roll(self, event: torch.Event, event_s: float) -> torch.Event:
        """Measure from ``event`` from now on, if the anchor lies far enough back.

        Returns:
            The one of the two events that the clock does not need.
        """
        if event_s - self._anchor_s < _ROLL_AFTER_S:
            return event
        event, self._anchor = self._anchor, event
        self._anchor_s = event_s
        return event
