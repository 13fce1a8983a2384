"""The pytest plugin of aio-sched: fixtures for programs in virtual time.

Beside the package and not in it: pytest imports every plugin that is installed, and
``import aio_sched`` takes seconds, for torch. So nothing is imported before a test asks.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from aio_sched.testing import VirtualLoop
    from streams import Device
    from streams.hazards import HazardChecker
    from streams.monitor import DeviceMonitor

__all__ = ["hazard_checker", "sim_device", "virtual_loop"]

_has_passed = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line choose the seed, so that a failure can be repeated."""
    parser.getgroup("aio-sched").addoption(
        "--aio-sched-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the fixtures virtual_loop (the order in which ready tasks run) and "
        "sim_device (how long its work takes), where no marker gives one; default 0",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "aio_sched(seed=None, profile='random', faults=(), strict=False, may_be_idle=False): how "
        "sim_device, virtual_loop and hazard_checker are made for this test, and whether the "
        "checker may have seen no work",
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> "Generator[None, Any, None]":
    """Keep whether the test itself has passed, for the fixtures that end behind it."""
    outcome = yield
    if call.when == "call":
        item.stash[_has_passed] = outcome.get_result().passed


@pytest.fixture
def virtual_loop(request: pytest.FixtureRequest) -> "Iterator[VirtualLoop]":
    """Give a new event loop in virtual time; its tasks are cancelled, and it is closed, after."""
    import asyncio
    from functools import partial

    from aio_sched.testing import VirtualLoop

    with asyncio.Runner(loop_factory=partial(VirtualLoop, _options(request).seed)) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop), "the runner asks its factory"
        yield loop


@pytest.fixture
def sim_device(request: pytest.FixtureRequest) -> "Iterator[Device]":
    """Give a simulated device whose work takes random virtual times; it is closed after.

    ``@pytest.mark.aio_sched(seed=..., profile=..., faults=[...])`` chooses another schedule,
    the name of a profile or one of your own, and what goes wrong.
    """
    from streams import open_device
    from streams.simulated import FaultPlan

    options = _options(request)
    plan = FaultPlan(options.faults)
    with open_device("sim", seed=options.seed, profile=options.profile, faults=plan) as device:
        yield device


@pytest.fixture
def hazard_checker(
    request: pytest.FixtureRequest, sim_device: "Device"
) -> "Iterator[HazardChecker]":
    """Watch ``sim_device`` and fail the test, after it, with what was found.

    A test that expects a report looks at ``hazard_checker.reports`` and clears the list.
    Other devices are watched as well within ``hazard_checker.watch(device)``. With
    ``@pytest.mark.aio_sched(strict=True)`` it keeps a clock for each task of ``virtual_loop``.
    A test that passes without any work that the checker saw fails too, unless it is marked
    ``@pytest.mark.aio_sched(may_be_idle=True)``: its work ran elsewhere.
    """
    from streams.hazards import HazardChecker

    checker = HazardChecker(strict=_options(request).strict)
    if checker.strict:
        request.getfixturevalue("virtual_loop").add_observer(checker.observer())
    launches: list[str] = []
    with checker.watch(sim_device), _labels(launches).watch(sim_device):
        yield checker
    checker.raise_if_any()
    is_idle = not launches and not checker.num_accesses
    if is_idle and request.node.stash.get(_has_passed, False) and not _options(request).may_be_idle:
        pytest.fail(_IDLE, pytrace=False)


_IDLE = (
    "hazard_checker saw no launch and no access, so it has checked nothing: run the work of this "
    "test on sim_device, or within hazard_checker.watch(device); if there is to be none, mark the "
    "test with aio_sched(may_be_idle=True)"
)


def _labels(launches: list[str]) -> "DeviceMonitor":
    """Make a monitor that notes what is launched.

    Not an override of the checker's own: reports would name that line of this file.
    """
    from streams.monitor import DeviceMonitor

    class Labels(DeviceMonitor):
        def on_launch(self, operation: Any) -> None:
            launches.append(operation.label)

    return Labels()


class _Options(NamedTuple):
    """What the marker can say."""

    seed: int
    profile: Any = "random"
    faults: Any = ()
    strict: bool = False
    may_be_idle: bool = False


def _options(request: pytest.FixtureRequest) -> _Options:
    """Read the markers of a test; the closest one wins, and each option counts by itself.

    Raises:
        UsageError: a marker has an option that there is not.
    """
    said: dict[str, Any] = {"seed": request.config.getoption("--aio-sched-seed")}
    for marker in reversed(list(request.node.iter_markers("aio_sched"))):
        if marker.args or not marker.kwargs.keys() <= set(_Options._fields):
            raise pytest.UsageError(
                f"marker aio_sched of {request.node.name} has {marker.args or marker.kwargs}; "
                f"give {', '.join(f'{name}=' for name in _Options._fields)} by name"
            )
        said |= marker.kwargs
    return _Options(**said)
