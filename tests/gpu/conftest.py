"""CUDA devices for the litmus cases, in both ways to issue."""

from collections.abc import Iterator

import pytest

from tests.device_fixtures import DEVICES, Bench, cells, device, hold

__all__ = ["bench", "cells", "device", "hold"]


@pytest.fixture(params=["cuda-inline", "cuda-thread"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """CUDA, issuing inline or on the issuer thread."""
    bench = DEVICES[request.param]()
    yield bench
    bench.release_all()
