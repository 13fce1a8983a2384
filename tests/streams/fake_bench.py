"""The accelerator device over a fake torch, as one more kind of device for the conformance suite.

What that shows: the device's bookkeeping (numbers, gates, retained memory, failures, closing) in
both ways to issue. What it cannot show: that torch and a driver behave like the fake.
"""

import threading

import pytest
import torch

from streams.accelerator import AcceleratorDevice
from streams.device import Device, IssueMode
from streams.stream import Stream
from tests.device_fixtures import Bench, Hold
from tests.streams.fake_torch import FakeTorch

__all__ = ["FakeBench"]


class FakeBench(Bench):
    """An accelerator whose torch is a fake; its kernels run on the CPU when they are issued.

    Args:
        fake: the torch that it runs on.
        issue: how launches are issued.
        timing: whether they are timed.
    """

    def __init__(self, fake: FakeTorch, issue: IssueMode, *, timing: bool = False) -> None:
        self.fake = fake
        self._issue: IssueMode = issue
        self._timing = timing
        self._flags: list[threading.Event] = []

    def open(self) -> Device:
        """Open the first fake accelerator."""
        return AcceleratorDevice("cuda", 0, issue=self._issue, timing=self._timing)

    def hold(self, stream: Stream) -> Hold:
        """Occupy the fake native stream."""
        flag = threading.Event()
        self._flags.append(flag)

        def held() -> None:
            self.fake.current().entries.append(flag)

        def release() -> None:
            flag.set()
            self.fake.wake()

        return Hold(stream.launch(held), release)

    def release_all(self) -> None:
        """Release every hold that was not."""
        for flag in self._flags:
            flag.set()
        self.fake.wake()

    def cells(self, *values: int, device: Device) -> torch.Tensor:
        """Return CPU memory: the fake has no other."""
        return torch.tensor(values, dtype=torch.int64)

    def native_current(self, device: Device) -> object:
        """Return the fake's current stream on this thread."""
        return self.fake.current(device.torch_device)

    def program(self) -> tuple[str, IssueMode]:
        """Skip: a program cannot open a fake."""
        pytest.skip("another process has no fake torch")
