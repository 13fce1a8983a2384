"""Opening a device by name: what is found, and what is refused with which remedy."""

from typing import Any

import pytest
import torch

from streams.device import Platform, open_device
from streams.errors import DeviceUnavailableError, UnknownDeviceError
from tests.streams.fake_torch import FakeTorch


@pytest.fixture
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without one, whatever this machine has."""
    FakeTorch(count=0).install(monkeypatch)


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize("name", ["cpu", "auto"])
def test_cpu_is_always_there(name: str) -> None:
    """``auto`` falls back to the CPU."""
    with open_device(name) as device:
        assert (device.name, device.platform) == ("cpu", Platform.CPU)
        assert device.capabilities.device_timing


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_accelerator_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """``auto`` prefers the accelerator; without an index it is the first."""
    FakeTorch().install(monkeypatch)
    with open_device(name) as device:
        assert (device.name, device.platform) == ("cuda:0", Platform.CUDA)


def test_index_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may have several accelerators."""
    FakeTorch().install(monkeypatch)
    with open_device("cuda:1", issue="thread", timing=True) as device:
        assert device.name == "cuda:1"
        assert device.capabilities.device_timing


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "cpu:1", "auto:1", "CUDA"])
def test_unknown_name_is_refused(name: str) -> None:
    """The error repeats the name and says which are known."""
    with pytest.raises(UnknownDeviceError, match=r"use 'auto', 'cpu'") as caught:
        open_device(name)
    assert repr(name) in str(caught.value)


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "xpu", "mps"])
def test_device_that_is_not_there_is_refused(name: str) -> None:
    """The error says what torch finds instead, and what to do."""
    with pytest.raises(DeviceUnavailableError, match="no accelerator here; use 'cpu'"):
        open_device(name)


def test_other_accelerator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for the wrong kind is told which kind there is."""
    FakeTorch("xpu").install(monkeypatch)
    with pytest.raises(DeviceUnavailableError, match="accelerator 'xpu'"):
        open_device("cuda")


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"issue": "later"}, "use 'inline' or 'thread'"),
        ({"threads": 0}, "threads=0 is not positive"),
    ],
)
def test_unknown_option_value_is_refused(options: dict[str, Any], remedy: str) -> None:
    """A wrong option value is a caller's mistake."""
    with pytest.raises(ValueError, match=remedy):
        open_device("cpu", **options)


def test_threads_are_the_workers() -> None:
    """``threads`` counts torch threads in each stream's worker, and leaves ours alone."""
    before = torch.get_num_threads()
    with open_device("cpu", threads=1) as device:
        stream = device.stream("s")
        launch = stream.launch(torch.get_num_threads)
        stream.synchronize()
        assert launch.result() == 1
    assert torch.get_num_threads() == before
