"""The simulated device: streams and events on a virtual clock, every schedule by seed."""

import torch

from streams.device import Capabilities, Device
from streams.lifetime import close_at_exit, forget
from streams.simulated.faults import FaultPlan
from streams.simulated.profile import SimProfile, as_profile
from streams.simulated.progress import register
from streams.simulated.queue import SimQueue
from streams.simulated.stream import SimStream
from streams.simulated.timeline import Timeline
from streams.stream import Stream

__all__ = ["SimDevice"]


class SimDevice(Device):
    """A device whose work takes virtual time; ``open_device("sim")`` makes one.

    Tensors live in host memory and functions compute real values, one at a time, on
    whatever thread moves the clock. A launch takes the time that profile and seed give
    it. Each declared read sees the memory as it was at a moment of its own within the
    launch, all else that the function reads and all that it writes happens at the end.
    So a race corrupts, and a program without races computes what it computes anywhere.

    The same seed and the same calls give the same spans, in every process. A function
    must not wait for anything, and a launch that runs when its stream or device is
    closed never ends: nothing of it happens.

    Args:
        seed: chooses durations and moments.
        profile: the name of one of ``PROFILES``, or a profile.
        faults: what goes wrong.

    Raises:
        ValueError: no profile has this name.

    Attributes:
        is_stopped: whether it is closed or lost.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        profile: str | SimProfile = "random",
        faults: FaultPlan | None = None,
    ) -> None:
        self.seed = seed
        self.profile = as_profile(profile)
        self.faults = FaultPlan() if faults is None else faults
        super().__init__(
            "sim",
            self.profile.platform,
            Capabilities(private_d2h=True, device_timing=True),
            torch.device("cpu"),
        )
        self.timeline = Timeline(self.lose)
        self._queues: list[SimQueue] = []
        self._num_opened = 0
        register(self)
        close_at_exit(self)

    @property
    def is_stopped(self) -> bool:
        """Whether nothing runs here any more."""
        return self.is_closed or self.lost is not None

    def _open_stream(self, name: str, priority: int) -> SimStream:
        with self.timeline.changed:
            return SimStream(self, name, priority, self._queue())

    def _queue(self) -> SimQueue:
        """Return the queue of the next stream."""
        shared = self.profile.hardware_queues
        number, self._num_opened = self._num_opened, self._num_opened + 1
        if shared is None:
            return SimQueue(self)
        if len(self._queues) < shared:
            self._queues.append(SimQueue(self))
        return self._queues[number % shared]

    def _on_lost(self) -> None:
        self.timeline.cancel_all()
        for stream in self.sim_streams:
            stream.wake_all()

    def _close_stream(self, stream: Stream) -> None:
        assert isinstance(stream, SimStream)
        with self.timeline.changed:
            stream.queue.drop(stream)
            stream.shut()
            self.timeline.changed.notify_all()

    def _close(self) -> None:
        forget(self)
        self.timeline.cancel_all()
        with self.timeline.changed:
            for stream in self.sim_streams:
                stream.queue.drop(stream)
                stream.shut()

    @property
    def sim_streams(self) -> list[SimStream]:
        """The open streams, oldest first."""
        return [stream for stream in self.streams if isinstance(stream, SimStream)]

    def disown(self) -> None:
        """In a forked child: what runs is the parent's."""
        self._closed_because = "it stayed in the parent of a fork"
        self.timeline.renew_lock()
