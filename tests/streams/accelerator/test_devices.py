"""Which accelerators there are, and what each can do."""

import pytest

from streams.accelerator import AcceleratorDevice, accelerator_type
from streams.device import Platform
from streams.errors import DeviceUnavailableError
from tests.streams.accelerator.tools import handle_of, stream_of
from tests.streams.conformance.work import nothing
from tests.streams.fake_torch import FakeTorch


def test_accelerator_type_is_none_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that finds no accelerator has none, whatever it was built for."""
    FakeTorch(count=0).install(monkeypatch)
    assert accelerator_type() is None


def test_accelerator_type_is_torchs_name(fake: FakeTorch) -> None:
    """The kind is torch's own word, for ROCm too."""
    assert accelerator_type() == "cuda"


@pytest.mark.parametrize(
    ("kind", "hip", "platform", "private_d2h", "pinned_memory"),
    [
        ("cuda", None, Platform.CUDA, True, True),
        ("cuda", "6.4.0", Platform.ROCM, False, True),
        ("xpu", None, Platform.XPU, False, True),
        ("mtia", None, Platform.OTHER, False, False),
    ],
)
def test_platform_decides_the_capabilities(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    hip: str | None,
    platform: Platform,
    private_d2h: bool,
    pinned_memory: bool,
) -> None:
    """ROCm calls itself cuda; ``torch.version.hip`` tells it apart."""
    fake = FakeTorch(kind, hip=hip)
    fake.install(monkeypatch)
    with AcceleratorDevice(kind, 1, issue="inline", timing=True) as device:
        assert device.platform is platform
        assert device.name == f"{kind}:1"
        assert device.capabilities.private_d2h is private_d2h
        assert device.capabilities.pinned_memory is pinned_memory
        assert device.capabilities.graph_capture is (kind == "cuda")
        assert device.capabilities.device_timing


def test_index_beyond_the_last_device_is_refused(fake: FakeTorch) -> None:
    """The error says how many there are."""
    with pytest.raises(DeviceUnavailableError, match=r"'cuda:2'.*finds 2"):
        AcceleratorDevice("cuda", 2, issue="inline", timing=False)


def test_other_accelerators_use_torchs_generic_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not CUDA needs no more than ``torch.Stream`` and ``torch.Event``."""
    fake = FakeTorch("xpu", handles=[1, 2, 5, 5, 6])
    del fake.cuda
    fake.install(monkeypatch)
    with AcceleratorDevice("xpu", 0, issue="inline", timing=False) as device:
        one, two = stream_of(device, "one"), stream_of(device, "two")
        assert (handle_of(one), handle_of(two)) == (5, 6)
        behind = two.launch(nothing, one.launch(fake.hold))
        assert not behind.query()
        fake.release_holds()
        assert behind.query()
    assert [event.options for event in fake.all_events] == [{"enable_timing": False}] * 2
