"""Which wake-ups the poller asks for: a timer and a clock that the test moves by hand."""

import asyncio
from collections.abc import Callable

import pytest

from streams.bridge import poller as poller_module
from streams.bridge.lane import Lane
from streams.bridge.poller import Poller
from tests.streams.polled_device import PolledDevice

_US = 1_000


class _Hand:
    """A clock, and the timer that goes by it."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        self.armed_ns: int | None = None
        self.num_syscalls = 0
        self._callback: Callable[[], object] | None = None

    def open(self, loop: object, callback: Callable[[], object]) -> "_Hand":
        self._callback = callback
        return self

    def is_armed(self) -> bool:
        return self.armed_ns is not None

    def monotonic_ns(self) -> int:
        return self.now_ns

    def arm(self, at_ns: int) -> None:
        self.armed_ns = at_ns
        self.num_syscalls += 1

    def disarm(self) -> None:
        self.armed_ns = None
        self.num_syscalls += 1

    def close(self) -> None:
        self.armed_ns = None

    def fire(self, late_ns: int = 0) -> None:
        """Let the armed moment come, a little late."""
        assert self.armed_ns is not None
        assert self._callback is not None
        self.now_ns, self.armed_ns = max(self.now_ns, self.armed_ns) + late_ns, None
        self._callback()


class _Rig:
    """A poller, and what it visited."""

    def __init__(self, hand: _Hand) -> None:
        self.hand = hand
        self.visited: list[Lane] = []
        self.next_due_us: int | None = None
        self.is_held = False
        loop = asyncio.get_running_loop()
        self.poller = Poller(loop, self._visit, lambda: self.is_held)
        device = PolledDevice()
        self.lanes = [Lane(device.polled(f"s{index}"), None) for index in range(3)]

    def watch(self, index: int, in_us: int) -> None:
        self.poller.watch(self.lanes[index], self.hand.now_ns + in_us * _US)

    def _visit(self, lane: Lane, now_ns: int) -> None:
        self.visited.append(lane)
        if self.next_due_us is None:
            self.poller.drop(lane)
        else:
            self.poller.watch(lane, now_ns + self.next_due_us * _US)


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> _Rig:
    """A poller under a clock that stands still."""
    hand = _Hand()
    monkeypatch.setattr(poller_module, "open_timer", hand.open)
    monkeypatch.setattr(poller_module, "monotonic_ns", hand.monotonic_ns)
    return _Rig(hand)


async def test_timer_is_set_to_the_earliest_lane(rig: _Rig) -> None:
    """A later lane asks for nothing, an earlier one moves the timer forward."""
    start_ns = rig.hand.now_ns
    rig.watch(0, 900)
    rig.watch(1, 2000)
    rig.watch(2, 300)
    assert rig.hand.armed_ns == start_ns + 300 * _US
    assert rig.hand.num_syscalls == 2
    rig.hand.fire()
    assert rig.visited == [rig.lanes[2]]
    assert rig.hand.armed_ns == start_ns + 900 * _US


async def test_lanes_that_are_due_together_share_a_wake_up(rig: _Rig) -> None:
    """Microseconds apart is together; a wake-up costs more than a look that comes early."""
    for index, in_us in enumerate((500, 515, 700)):
        rig.watch(index, in_us)
    rig.hand.fire()
    assert rig.visited == rig.lanes[:2]


async def test_without_lanes_nothing_stays_armed(rig: _Rig) -> None:
    """The last lane takes the timer with it, whether it was visited or dropped."""
    rig.watch(0, 500)
    rig.watch(1, 600)
    rig.poller.drop(rig.lanes[0])
    assert rig.hand.is_armed()
    rig.poller.drop(rig.lanes[1])
    assert not rig.hand.is_armed()
    rig.watch(0, 500)
    rig.hand.fire()
    assert not rig.hand.is_armed()
    num_syscalls = rig.hand.num_syscalls
    rig.poller.drop(rig.lanes[0])
    rig.poller.resume()
    assert rig.hand.num_syscalls == num_syscalls


async def test_usual_lateness_of_the_timer_is_taken_off(rig: _Rig) -> None:
    """A timer that is always 60 us late is set 60 us earlier, but not by more than half."""
    rig.next_due_us = 5000
    rig.watch(0, 5000)
    for _ in range(60):
        rig.hand.fire(late_ns=60 * _US)
    due_ns = rig.lanes[0].due_ns
    assert rig.hand.armed_ns == pytest.approx(due_ns - 60 * _US, abs=2 * _US)
    rig.watch(1, 50)
    assert rig.hand.armed_ns == rig.hand.now_ns + 25 * _US


async def test_wake_up_that_comes_early_counts_as_due(rig: _Rig) -> None:
    """What was taken off for lateness must not lead to another wake-up for the same look."""
    rig.next_due_us = 5000
    rig.watch(0, 5000)
    for _ in range(60):
        rig.hand.fire(late_ns=60 * _US)
    num_visits = len(rig.visited)
    rig.hand.fire(late_ns=0)
    assert len(rig.visited) == num_visits + 1


async def test_one_very_late_wake_up_does_not_spoil_the_aim(rig: _Rig) -> None:
    """A loop that was busy for 50 ms says nothing about the timer."""
    rig.next_due_us = 5000
    rig.watch(0, 5000)
    rig.hand.fire(late_ns=50_000 * _US)
    assert rig.hand.armed_ns is not None
    assert rig.lanes[0].due_ns - rig.hand.armed_ns <= 20 * _US


async def test_lane_that_is_due_at_once_needs_no_timer(rig: _Rig) -> None:
    """It is visited at the loop's next turn, and at every turn while it wants that."""
    rig.next_due_us = 0
    rig.watch(0, 0)
    rig.watch(1, -5)
    for _ in range(3):
        await asyncio.sleep(0)
    assert rig.visited == rig.lanes[:2] * 3
    assert rig.hand.num_syscalls == 0
    rig.poller.close()
    await asyncio.sleep(0)
    assert len(rig.visited) == 6


async def test_nothing_is_armed_until_it_is_known_what_comes_next(rig: _Rig) -> None:
    """Between a round that found something and ``resume`` the timer is left alone."""
    rig.watch(0, 100)
    rig.watch(1, 900)
    rig.is_held = True
    rig.hand.fire()
    assert not rig.hand.is_armed()
    rig.watch(2, 300)
    assert not rig.hand.is_armed()
    rig.poller.resume()
    assert rig.hand.armed_ns is not None
    assert rig.hand.armed_ns <= rig.lanes[2].due_ns


async def test_expiry_that_was_overtaken_by_a_disarm_visits_nobody(rig: _Rig) -> None:
    """The loop may deliver what had expired before it was disarmed."""
    rig.watch(0, 100)
    expired = rig.hand.fire
    rig.poller.drop(rig.lanes[0])
    rig.hand.armed_ns = rig.hand.now_ns
    expired()
    assert rig.visited == []
    assert rig.poller.polls == 0
