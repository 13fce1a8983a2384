"""What a deadlock report says of simulated devices."""

import dataclasses

import pytest

from streams.device import open_device
from streams.errors import DeadlockError
from streams.event import Event
from streams.simulated import (
    Fault,
    FaultKind,
    FaultPlan,
    Latch,
    SimDevice,
    can_progress,
    stuck_report,
    wait_cycle,
)
from tests.streams.simulated.tools import FIXED, nothing


def test_idle_devices_are_not_mentioned() -> None:
    """Where all is done there is nothing to say."""
    with open_device("sim") as device:
        stream = device.stream("s")
        stream.launch(nothing)
        stream.synchronize()
        assert stuck_report() == ""
        assert not can_progress()


def test_running_work_is_progress() -> None:
    """While anything runs, time alone brings the device on; closed devices do not count."""
    with open_device("sim", seed=6) as device:
        stream = device.stream("s")
        stream.launch(nothing)
        stream.launch(nothing)
        assert can_progress()
        assert "simulated device (seed 6)" in stuck_report()
        assert "nothing #1 on 's' is running, 1 behind it" in stuck_report()
    assert not can_progress()
    assert stuck_report() == ""


def test_each_head_says_what_it_waits_for() -> None:
    """A hang, a latch, and a gate on each of them."""
    plan = FaultPlan([Fault(FaultKind.LAUNCH_HANGS, label="nothing")])
    with open_device("sim", profile=FIXED, faults=plan) as device:
        assert isinstance(device, SimDevice)
        hung, held, gated = (device.stream(name) for name in ("hung", "held", "gated"))
        hung.launch(nothing)
        held.launch(Latch())
        gated.wait_stream(hung)
        gated.launch(nothing)
        with pytest.raises(DeadlockError):
            for _ in range(100):
                device.timeline.spend(1000)
            device.timeline.latched.clear()
            gated.synchronize()
        report = stuck_report()
        assert "nothing #1 on 'hung' hangs (launch_hangs at nothing" in report
        assert "latch #1 on 'held' is held by <Latch 'latch' closed>" in report
        assert "nothing #1 on 'gated' waits for 'wait_stream' #1 on 'hung'" in report
        assert "circle" not in report
        assert wait_cycle(device) == []


@pytest.mark.parametrize("queues", [None, 1])
def test_circle_of_waits_is_named(queues: int | None) -> None:
    """Streams that wait for each other, or behind each other in one queue, are listed."""
    profile = dataclasses.replace(FIXED, hardware_queues=queues)
    with open_device("sim", profile=profile) as device:
        assert isinstance(device, SimDevice)
        one, two = device.stream("one"), device.stream("two")
        # Recorded events cannot make a circle: each stands for what was put there before.
        one.wait_event(Event("of two", stream=two, number=1))
        two.wait_event(Event("of one", stream=one, number=1))
        one.launch(nothing)
        two.launch(nothing)
        expected = ["one", "two", "one"] if queues is None else ["one", "one"]
        assert wait_cycle(device) == expected
        with pytest.raises(DeadlockError, match="wait in a circle: 'one' -> "):
            device.synchronize()


def test_wait_for_what_nobody_put_there_says_so() -> None:
    """An event beyond all that a stream was given will never come."""
    with open_device("sim") as device:
        one, two = device.stream("one"), device.stream("two")
        one.wait_event(Event("dream", stream=two, number=3))
        one.launch(nothing)
        assert "has completed 0 of 0, and nothing was put there yet" in stuck_report()
