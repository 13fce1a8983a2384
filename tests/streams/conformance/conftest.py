"""The suite also runs the accelerator device over a fake torch, in every way to issue.

And a simulated device that cannot call back.
"""

import dataclasses
from collections.abc import Iterator

import pytest

from streams.device import IssueMode
from streams.simulated import PROFILES
from tests.device_fixtures import DEVICES, Bench, SimBench
from tests.streams.fake_bench import FakeBench
from tests.streams.fake_torch import FakeTorch

_PARAMS = [
    *(
        pytest.param(name, marks=[pytest.mark.gpu] if name.startswith("cuda") else [])
        for name in DEVICES
    ),
    "sim-polled",
    "fake-inline",
    "fake-thread",
    "fake-timed",
]


@pytest.fixture(params=_PARAMS)
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The kind of device that this run of the case is about."""
    if request.param in DEVICES:
        bench = DEVICES[request.param]()
    elif request.param == "sim-polled":
        bench = SimBench(dataclasses.replace(PROFILES["random"], polled=True))
    else:
        fake = FakeTorch()
        fake.install(monkeypatch)
        issue: IssueMode = "thread" if request.param == "fake-thread" else "inline"
        bench = FakeBench(fake, issue, timing=request.param == "fake-timed")
    yield bench
    bench.release_all()
