"""A device that runs nothing and completes what it is asked about."""

from random import Random

import torch

from streams.device import Capabilities, Device, Platform
from streams.launch import Operation
from streams.stream import Stream

__all__ = ["LazyDevice", "LazyStream"]


class LazyStream(Stream):
    """Complete once somebody asks, so that no order here comes from timing."""

    notifies = True

    def advance(self, number: int) -> int:
        """Complete up to ``number``."""
        self.completed = max(self.completed, number)
        self._retire(self.completed)
        return self.completed

    def block_until(self, number: int) -> None:
        """Complete up to ``number``."""
        self.advance(number)

    def progress(self, random: Random) -> None:
        """Complete some of what was put here, unasked."""
        self.advance(random.randint(self.completed, self._issued))

    def _issue(self, operation: Operation) -> None:
        operation.launch.set_value(None)


class LazyDevice(Device):
    """Streams without threads; made once per program."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__("lazy", Platform.OTHER, Capabilities(), torch.device("cpu"))
        self.seed = seed

    def _open_stream(self, name: str, priority: int) -> LazyStream:
        return LazyStream(self, name, priority)

    def _close_stream(self, stream: Stream) -> None:
        pass

    def _close(self) -> None:
        pass

    def _on_lost(self) -> None:
        pass
