"""Devices for every test of this folder; ``cpu`` where a test looks into its threads."""

from collections.abc import Iterator

import pytest

from streams.device import Device
from tests.device_fixtures import CpuBench, bench, cells, device, hold

__all__ = ["bench", "cells", "cpu", "device", "hold"]


class Cpu(CpuBench):
    """An open CPU device, and holds on its streams."""

    def __init__(self) -> None:
        super().__init__()
        self.device: Device = self.open()


@pytest.fixture
def cpu() -> Iterator[Cpu]:
    """A CPU device for tests that gate its worker threads; closed after the test."""
    cpu = Cpu()
    with cpu.device:
        yield cpu
        cpu.release_all()
