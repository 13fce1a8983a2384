"""The pytest plugin of aio-sched: fixtures for programs in virtual time.

Beside the package and not in it: pytest imports every plugin that is installed, and
``import aio_sched`` takes seconds, for torch. So nothing is imported before a test asks.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from aio_sched.testing import VirtualLoop

__all__ = ["virtual_loop"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line choose the seed, so that a failure can be repeated."""
    parser.getgroup("aio-sched").addoption(
        "--aio-sched-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the virtual_loop fixture: which order ready tasks run in (default 0)",
    )


@pytest.fixture
def virtual_loop(request: pytest.FixtureRequest) -> "Iterator[VirtualLoop]":
    """Give a new event loop in virtual time; its tasks are cancelled, and it is closed, after."""
    import asyncio
    from functools import partial

    from aio_sched.testing import VirtualLoop

    seed = request.config.getoption("--aio-sched-seed")
    with asyncio.Runner(loop_factory=partial(VirtualLoop, seed)) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop), "the runner asks its factory"
        yield loop
