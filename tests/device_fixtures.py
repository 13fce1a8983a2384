"""Devices to test on, and work on them that lasts until the test says so.

The fixtures ``device``, ``hold`` and ``cells`` run a test once for each device of ``DEVICES``;
a new kind of device is one more entry there and one more subclass of ``Bench``.
"""

import ctypes
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest
import torch

from streams.accelerator import accelerator_type
from streams.device import Device, IssueMode, open_device
from streams.launch import Launch
from streams.simulated import Latch, SimProfile
from streams.stream import Stream

__all__ = [
    "DEVICES",
    "Bench",
    "Cells",
    "Hold",
    "HoldFactory",
    "SimBench",
    "bench",
    "cells",
    "device",
    "hold",
]

#: A hold that no test released ends by itself, so that a failed test cannot hang the run.
FORGOTTEN_AFTER_S = 30.0


class Hold:
    """A launch that occupies its device stream until ``release()``."""

    def __init__(self, launch: Launch[None], release: Callable[[], object]) -> None:
        self.launch = launch
        self._release = release

    def release(self) -> None:
        """Let the launch end; doing it twice does no harm."""
        self._release()


class HoldFactory(Protocol):
    """Puts a hold on a device stream."""

    def __call__(self, stream: Stream) -> Hold:
        """Occupy ``stream`` from now on, behind what is queued on it already."""


class Cells(Protocol):
    """Makes numbers in device memory."""

    def __call__(self, *values: int) -> torch.Tensor:
        """Return an int64 tensor on the device whose memory holds ``values`` already."""


class Bench(ABC):
    """One kind of device, as tests need it."""

    @abstractmethod
    def open(self) -> Device:
        """Open another device of this kind; the caller closes it."""

    @abstractmethod
    def hold(self, stream: Stream) -> Hold:
        """Put work on ``stream`` that lasts until it is released."""

    def release_all(self) -> None:
        """Release every hold that was not."""

    def cells(self, *values: int, device: Device) -> torch.Tensor:
        """Return ``values`` in memory of ``device``, written before anything can read them."""
        return torch.tensor(values, dtype=torch.int64, device=device.torch_device)

    def native_current(self, device: Device) -> object:
        """Return torch's own current stream on this thread; None where torch has none."""
        return torch.accelerator.current_stream(device.torch_device)

    @abstractmethod
    def program(self) -> tuple[str, IssueMode]:
        """Return the arguments with which a program opens a device of this kind."""


class CpuBench(Bench):
    """Holds wait for a ``threading.Event`` on the stream's worker."""

    def __init__(self) -> None:
        self._gates: list[threading.Event] = []

    def open(self) -> Device:
        """Open a CPU device."""
        return open_device("cpu")

    def hold(self, stream: Stream) -> Hold:
        """Block the stream's worker until released."""
        gate = threading.Event()
        self._gates.append(gate)

        def held() -> None:
            if not gate.wait(FORGOTTEN_AFTER_S):
                raise TimeoutError(f"nobody released the hold in {FORGOTTEN_AFTER_S} s")

        return Hold(stream.launch(held), gate.set)

    def release_all(self) -> None:
        """Release every hold that was not."""
        for gate in self._gates:
            gate.set()

    def native_current(self, device: Device) -> object:
        """Return None: torch's streams mean nothing on the CPU."""
        return None

    def program(self) -> tuple[str, IssueMode]:
        """Return how a program opens a CPU device."""
        return "cpu", "inline"


class SimBench(Bench):
    """Holds are latches; between them virtual time passes by itself."""

    def __init__(self, profile: str | SimProfile = "random") -> None:
        self._profile = profile
        self._latches: list[Latch] = []

    def open(self) -> Device:
        """Open a simulated device."""
        return open_device("sim", profile=self._profile)

    def hold(self, stream: Stream) -> Hold:
        """Launch work that lasts until released."""
        latch = Latch("held")
        self._latches.append(latch)
        return Hold(stream.launch(latch), latch.release)

    def release_all(self) -> None:
        """Release every hold that was not."""
        for latch in self._latches:
            latch.release()

    def native_current(self, device: Device) -> object:
        """Return None: torch knows nothing of simulated streams."""
        return None

    def program(self) -> tuple[str, IssueMode]:
        """Return how a program opens a simulated device."""
        return "sim", "inline"


class CudaBench(Bench):
    """Holds are stream memory operations: the stream waits for a word of pinned memory.

    They take no multiprocessor, and the pinned words and the kernels that tests use are there
    before the first hold: allocating pinned memory or loading a kernel may wait for the device.
    """

    def __init__(self, issue: IssueMode) -> None:
        self._issue: IssueMode = issue
        self._flags = torch.zeros(256, dtype=torch.int32).pin_memory()
        self._num_flags = 0
        self._wait_value = _driver_wait_value()
        self._watchdog = threading.Timer(FORGOTTEN_AFTER_S, self.release_all)
        self._watchdog.daemon = True
        self._watchdog.start()
        self._load_kernels()

    def open(self) -> Device:
        """Open the first accelerator."""
        return open_device("cuda", issue=self._issue)

    def hold(self, stream: Stream) -> Hold:
        """Let the stream wait for one word of pinned memory."""
        index, self._num_flags = self._num_flags, self._num_flags + 1
        address = self._flags.data_ptr() + 4 * index

        def held() -> None:
            native = torch.cuda.current_stream().cuda_stream
            if status := self._wait_value(native, address, 1, 0):
                raise RuntimeError(f"cuStreamWaitValue32 failed with CUresult {status}")

        return Hold(stream.launch(held), lambda: self._flags[index].fill_(1))

    def release_all(self) -> None:
        """Release every hold, made or to come."""
        self._flags.fill_(1)
        self._watchdog.cancel()

    def cells(self, *values: int, device: Device) -> torch.Tensor:
        """Copy ``values`` to the device and wait for the copy alone."""
        tensor = super().cells(*values, device=device)
        torch.cuda.current_stream().synchronize()
        return tensor

    def program(self) -> tuple[str, IssueMode]:
        """Return how a program opens a CUDA device."""
        return "cuda", self._issue

    def _load_kernels(self) -> None:
        one = torch.ones(4, dtype=torch.int64, device="cuda")
        one.mul_(10).add_(one).fill_(3)
        (one + one, one * 2, one.clone(), one.sum(), torch.zeros_like(one), one.tolist())
        torch.cuda.synchronize()


def _driver_wait_value() -> Callable[[int, int, int, int], int]:
    if torch.version.hip is not None:
        pytest.skip("holds on ROCm are not written: they need hipStreamWaitValue32")
    driver = ctypes.CDLL("libcuda.so.1")
    wait_value = driver.cuStreamWaitValue32_v2
    wait_value.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint]
    wait_value.restype = ctypes.c_int
    return wait_value


def _cuda(issue: IssueMode) -> Callable[[], Bench]:
    def make() -> Bench:
        if accelerator_type() != "cuda":
            pytest.skip(f"needs CUDA; the accelerator here is {accelerator_type()!r}")
        return CudaBench(issue)

    return make


#: What each device parameter stands for.
DEVICES: dict[str, Callable[[], Bench]] = {
    "cpu": CpuBench,
    "sim": SimBench,
    "cuda-inline": _cuda("inline"),
    "cuda-thread": _cuda("thread"),
}

_PARAMS = [
    pytest.param(name, marks=[pytest.mark.gpu] if name.startswith("cuda") else [])
    for name in DEVICES
]


@pytest.fixture(params=_PARAMS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The kind of device that this run of the test is about."""
    bench = DEVICES[request.param]()
    yield bench
    bench.release_all()


@pytest.fixture
def device(bench: Bench) -> Iterator[Device]:
    """An open device; holds are released and it is closed after the test."""
    with bench.open() as device:
        yield device
        bench.release_all()


@pytest.fixture
def hold(bench: Bench) -> HoldFactory:
    """Put work on a device stream that lasts until it is released."""
    return bench.hold


@pytest.fixture
def cells(bench: Bench, device: Device) -> Cells:
    """Make numbers in the memory of ``device``."""
    return lambda *values: bench.cells(*values, device=device)
