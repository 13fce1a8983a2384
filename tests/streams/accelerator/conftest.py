"""A fake torch, and an accelerator on it."""

from collections.abc import Iterator

import pytest

from streams.accelerator import AcceleratorDevice
from tests.streams.accelerator.tools import opened
from tests.streams.fake_torch import FakeTorch


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    """A fake torch that the accelerator device sees."""
    fake = FakeTorch()
    fake.install(monkeypatch)
    return fake


@pytest.fixture
def device(fake: FakeTorch) -> Iterator[AcceleratorDevice]:
    """The first fake accelerator, issuing inline."""
    with opened(fake) as device:
        yield device
