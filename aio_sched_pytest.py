"""The pytest plugin of aio-sched: fixtures for programs in virtual time.

Beside the package and not in it: pytest imports every plugin that is installed, and
``import aio_sched`` takes seconds, for torch. So nothing is imported before a test asks.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from aio_sched.testing import VirtualLoop
    from streams import Device
    from streams.hazards import HazardChecker

__all__ = ["hazard_checker", "sim_device", "virtual_loop"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line choose the seed, so that a failure can be repeated."""
    parser.getgroup("aio-sched").addoption(
        "--aio-sched-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the fixtures virtual_loop (the order in which ready tasks run) and "
        "sim_device (how long its work takes); default 0",
    )


@pytest.fixture
def virtual_loop(request: pytest.FixtureRequest) -> "Iterator[VirtualLoop]":
    """Give a new event loop in virtual time; its tasks are cancelled, and it is closed, after."""
    import asyncio
    from functools import partial

    from aio_sched.testing import VirtualLoop

    with asyncio.Runner(loop_factory=partial(VirtualLoop, _seed(request))) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop), "the runner asks its factory"
        yield loop


@pytest.fixture
def sim_device(request: pytest.FixtureRequest) -> "Iterator[Device]":
    """Give a simulated device whose work takes random virtual times; it is closed after."""
    from streams import open_device

    with open_device("sim", seed=_seed(request), profile="random") as device:
        yield device


@pytest.fixture
def hazard_checker(sim_device: "Device") -> "Iterator[HazardChecker]":
    """Watch ``sim_device`` and fail the test, after it, with what was found.

    A test that expects a report looks at ``hazard_checker.reports`` and clears the list.
    Other devices are watched as well within ``hazard_checker.watch(device)``.
    """
    from streams.hazards import HazardChecker

    checker = HazardChecker()
    with checker.watch(sim_device):
        yield checker
    checker.raise_if_any()


def _seed(request: pytest.FixtureRequest) -> int:
    seed: int = request.config.getoption("--aio-sched-seed")
    return seed
