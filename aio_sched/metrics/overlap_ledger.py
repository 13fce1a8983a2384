"""How much of the host's work cost nothing, because the device was busy meanwhile.

Pure: takes times, holds no device and never waits.
"""

from collections import deque

__all__ = ["OverlapLedger"]

Interval = tuple[float, float]


class OverlapLedger:
    """How much of the host's time fell into the device's, in bounded memory.

    Both sides are fed in order and without overlaps of their own, but one side may
    be ahead of the other by any amount.

    Attributes:
        settled_s: host seconds whose overlap is known.
        hidden_s: those of them during which the device was busy.
    """

    def __init__(self, max_pending: int = 65_536) -> None:
        self.settled_s = 0.0
        self.hidden_s = 0.0
        self._oldest_hidden_s = 0.0  # of the oldest pending host interval, so far
        self._host: deque[Interval] = deque()
        self._device: deque[Interval] = deque()
        self._max_pending = max_pending

    def host(self, start_s: float, end_s: float) -> None:
        """The host worked."""
        self._host.append((start_s, end_s))
        self._match()
        if len(self._host) > self._max_pending:
            self._drop_host()

    def device(self, start_s: float, end_s: float) -> None:
        """The device worked."""
        self._device.append((start_s, end_s))
        self._match()
        if len(self._device) > self._max_pending:
            self._device.popleft()

    def settle(self, device_known_s: float) -> None:
        """Say that all work of the device up to ``device_known_s`` has been told."""
        while self._host and self._host[0][1] <= device_known_s:
            self._drop_host()

    def _match(self) -> None:
        host, device = self._host, self._device
        while host and device:
            (host_start_s, host_end_s), (start_s, end_s) = host[0], device[0]
            if host_end_s < end_s:
                self._oldest_hidden_s += max(0.0, host_end_s - max(host_start_s, start_s))
                self._drop_host()
            else:
                self._oldest_hidden_s += max(0.0, end_s - max(host_start_s, start_s))
                device.popleft()

    def _drop_host(self) -> None:
        start_s, end_s = self._host.popleft()
        self.settled_s += end_s - start_s
        self.hidden_s += self._oldest_hidden_s
        self._oldest_hidden_s = 0.0
