"""Collectives of torch.distributed as a device stream, so that they are awaited like any other."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from streams import Capabilities, Device, Platform, Stream
from streams.launch import Operation

__all__ = ["WorkDevice", "WorkStream"]


class WorkStream(Stream):
    """A stream whose launches return a ``torch.distributed.Work`` that is under way.

    A launch is complete when its work is, failed or not: ``Work.wait()``, which then returns or
    raises at once, must follow before the memory is read. A dead peer completes a work, too, and
    leaves garbage behind. The value of a launch is None for who awaits it: a work keeps the
    connections of its group, and tracebacks keep launches.
    """

    # A gloo thread calls back: nothing is polled, and no thread is left in a wait that only
    # the time limit of the operation ends.
    notifies = True

    def __init__(self, device: "WorkDevice", name: str, priority: int) -> None:
        super().__init__(device, name, priority)
        # Any: a Work, which torch does not name in public, or None for a launch that failed.
        self._works: deque[tuple[int, Any]] = deque()
        self._waiting: list[Callable[[], object]] = []

    def advance(self, number: int) -> int:
        """Return the counter; raise if it will never reach ``number``."""
        while self._works and (self._works[0][1] is None or self._works[0][1].is_completed()):
            self.completed = self._works.popleft()[0]
            self._retire(self.completed)
        if self.completed < number and (self.is_closed or self.device.is_closed):
            raise self._unfinished(number)
        return self.completed

    def block_until(self, number: int) -> None:
        """Block this thread until the works up to ``number`` are done, failed or not."""
        for at, work in tuple(self._works):
            if at <= number and work is not None:
                with suppress(RuntimeError):
                    work.wait()
        self.advance(number)

    def notify_at(self, number: int, callback: Callable[[], object]) -> None:
        """Call ``callback`` from a thread of torch's once ``number`` is done, or at closing."""
        works = [work for at, work in self._works if at <= number and work is not None]
        if not works or self.device.is_closed:
            callback()
        else:
            self._waiting = [callback]  # the bridge arms one number at a time: the lowest
            works[-1].get_future().add_done_callback(lambda _: callback())

    def stop(self) -> None:
        """Tell whoever waits that the device is closed."""
        waiting, self._waiting = self._waiting, []
        self._works.clear()
        for callback in waiting:
            callback()

    def _issue(self, operation: Operation) -> None:
        self.failures.execute(operation)
        failed = operation.launch.failure is not None or operation.fn is None
        work = None if failed else operation.launch.issued_value()
        if work is not None:
            operation.launch.set_value(None)
        self._works.append((operation.number, work))


class WorkDevice(Device):
    """The network between the ranks, as a device; its tensors are the host's."""

    def __init__(self) -> None:
        super().__init__("ranks", Platform.OTHER, Capabilities(), torch.device("cpu"))

    def _open_stream(self, name: str, priority: int) -> WorkStream:
        return WorkStream(self, name, priority)

    def _close_stream(self, stream: Stream) -> None:
        assert isinstance(stream, WorkStream)
        stream.stop()

    def _close(self) -> None:
        for stream in self.streams:
            self._close_stream(stream)

    def _on_lost(self) -> None:
        self._close()
