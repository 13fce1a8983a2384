"""Who moves the virtual clock on: an event loop, whoever blocks or asks, a virtual loop."""

import asyncio
import dataclasses
import threading
import weakref

import pytest
import torch

from aio_sched.testing import virtual_run
from streams.bridge import PollingBridge
from streams.current import current_stream
from streams.device import open_device
from streams.errors import DeadlockError, DeviceLostError
from streams.simulated import Latch, SimDevice
from streams.simulated.timeline import Timeline
from streams.stream import Stream
from tests.streams.conformance.work import waiting
from tests.streams.simulated.tools import FIXED, Spans, nothing


def sim(**options: object) -> SimDevice:
    """Open a device on which every launch takes 10 us and a query 1 us."""
    device = open_device("sim", profile=FIXED, **options)  # type: ignore[arg-type]  # passed on
    assert isinstance(device, SimDevice)
    return device


def test_streams_overlap_and_gates_order_them() -> None:
    """Launches of one stream follow each other; another stream runs beside, or behind a gate."""
    with sim() as device:
        spans, one, two = Spans(), device.stream("one"), device.stream("two")
        device.add_monitor(spans)
        first = one.launch(torch.neg, torch.zeros(1))
        one.launch(torch.abs, torch.zeros(1))
        two.launch(torch.sin, torch.zeros(1))
        two.wait_event(first.event)
        two.wait_stream(one)
        two.launch(torch.cos, torch.zeros(1))
        device.synchronize()
        assert spans.times_us == {
            "neg": (0, 10),
            "abs": (10, 20),
            "sin": (0, 10),
            "cos": (20, 30),
        }
        assert one.busy_s == pytest.approx(20e-6)


def test_asking_costs_time_so_that_a_spinning_host_gets_there() -> None:
    """Each question takes a microsecond; the launch is done at the tenth."""
    with sim() as device:
        launch = device.stream("s").launch(nothing)
        assert [launch.query() for _ in range(11)] == [False] * 9 + [True] * 2
        assert device.timeline.now_ns == 10_000


async def test_time_passes_by_itself_on_a_real_loop() -> None:
    """While the host does other things the device works on, an event per turn of the loop."""
    with sim() as device:
        stream = device.stream("s")
        last = [stream.launch(nothing) for _ in range(3)][-1]
        assert stream.completed == 0
        for _ in range(4):
            await asyncio.sleep(0)
        assert stream.completed == last.event.number


async def test_idle_device_leaves_the_loop_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done in the loop's turns when time alone brings nothing about."""
    turns: list[bool] = []
    turn = Timeline._turn

    def counted(timeline: Timeline) -> bool:
        turns.append(turn(timeline))
        return turns[-1]

    monkeypatch.setattr(Timeline, "_turn", counted)
    with sim() as device:
        latch = Latch()
        held = device.stream("s").launch(latch)
        async with waiting(held) as waiter:
            for _ in range(20):
                await asyncio.sleep(0)
            assert 0 < len(turns) < 5
            releaser = threading.Thread(target=latch.release)
            releaser.start()
            await waiter
        releaser.join()


def test_blocked_thread_goes_on_when_another_one_releases() -> None:
    """A latch may be released by any thread, before or after somebody blocks for it."""
    with sim() as device:
        stream, latch = device.stream("s"), Latch()
        stream.launch(latch)
        behind = stream.launch(nothing)
        timer = threading.Timer(0.01, latch.release)
        timer.start()
        stream.block_until(behind.event.number)
        timer.join()
        assert behind.query()
        stream.launch(latch)
        stream.synchronize()


def test_wait_that_can_never_end_is_a_deadlock() -> None:
    """Blocking behind an event that nothing will reach raises, with the reason."""
    with sim() as device:
        one, two = device.stream("one"), device.stream("two")
        done = one.launch(nothing).event
        future = type(done)("future", stream=one, number=5)
        two.wait_event(future)
        two.launch(nothing)
        with pytest.raises(DeadlockError, match=r"nothing #1 on 'two' waits for 'future' #5"):
            two.synchronize()


def test_function_that_waits_for_its_device_is_a_deadlock() -> None:
    """A launch blocks its device while it runs; one that waits for it is told so."""
    with sim() as device:
        stream, other = device.stream("s"), device.stream("other")
        launch = stream.launch(other.launch(Latch()).event.synchronize)
        stream.synchronize()
        with pytest.raises(DeadlockError, match="function waits for its own device"):
            launch.result()


def test_function_may_ask_without_moving_time() -> None:
    """A question from within a launch changes nothing under its feet."""
    with sim() as device:
        one, two = device.stream("one"), device.stream("two")
        asked = one.launch(lambda: [other.event.query() for _ in range(50)])
        other = two.launch(nothing)
        device.synchronize()
        assert not any(asked.result())
        assert device.timeline.now_ns == 10_000


def test_function_sees_nothing_of_whoever_moves_the_clock() -> None:
    """Torch modes and the current stream are those of a thread of the device's own."""

    def look() -> tuple[bool, bool, torch.device, object]:
        where = torch.empty(0).device
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), where, current_stream()

    with sim() as device:
        stream = device.stream("s")
        seen = stream.launch(look)
        with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu"):
            stream.synchronize()
            assert torch.empty(0).is_meta
        assert seen.result() == (True, False, torch.device("cpu"), stream)
        assert current_stream() is None


def test_failure_keeps_nothing_of_whoever_moved_the_clock() -> None:
    """An error that is kept leads back to its function, not to the host's locals."""

    def spin(stream: Stream) -> weakref.ref[torch.Tensor]:
        local = torch.zeros(4)
        failed = stream.launch(torch.add, "no", "tensors")
        while not failed.query():
            pass
        assert failed.error is not None
        return weakref.ref(local)

    with sim() as device:
        assert spin(device.stream("s"))() is None


async def test_work_of_before_the_loop_goes_on_in_it() -> None:
    """Asking for a notification is enough to let time pass in the loop that runs."""
    with sim() as device:
        stream, told = device.stream("s"), asyncio.Event()
        launched = asyncio.get_running_loop().run_in_executor(None, stream.launch, nothing)
        launch = await launched
        assert not device.timeline._pump._is_scheduled
        stream.notify_at(launch.event.number, told.set)
        await told.wait()


def test_lost_device_completes_nothing_of_what_was_running() -> None:
    """A launch during which the device is lost has no value and no waiter that succeeds."""
    with sim() as device:
        stream = device.stream("s")
        launch = stream.launch(device.lose, RuntimeError("gone"))
        with pytest.raises(DeviceLostError):
            stream.block_until(launch.event.number)
        assert stream.completed == 0


def test_function_may_close_its_own_stream() -> None:
    """Work of others in the same hardware queue goes on behind it, all of it."""
    with open_device("sim", profile=dataclasses.replace(FIXED, hardware_queues=1)) as device:
        one, two, done = device.stream("one"), device.stream("two"), list[int]()
        one.launch(one.close)
        one.launch(done.append, 0)
        for number in (1, 2):
            two.launch(done.append, number)
        two.synchronize()
        assert done == [1, 2]


async def in_virtual_time(device: SimDevice) -> tuple[float, int]:
    """Run a launch; return what the loop's clock and the device's say."""
    await device.stream("virtual").launch(nothing)
    return asyncio.get_running_loop().time(), device.timeline.now_ns


def test_virtual_loop_gives_the_time() -> None:
    """In a virtual loop device and loop share one clock."""
    with sim() as device:
        loop_s, device_ns = virtual_run(in_virtual_time(device))
    assert (round(loop_s * 1e9), device_ns) == (10_000, 10_000)


def test_work_of_before_ends_before_a_virtual_loop_takes_over() -> None:
    """What began on the device's own clock ends on it; one loop may follow another."""
    with sim() as device:
        spans = Spans()
        device.add_monitor(spans)
        before = device.stream("before").launch(nothing)
        for _ in range(2):
            virtual_run(in_virtual_time(device))
            device.streams[-1].close()
        assert before.query()
        assert [(s.stream, round(s.end_s * 1e6)) for s in spans.spans] == [
            ("before", 10),
            ("virtual", 10),
            ("virtual", 10),
        ]


@pytest.mark.parametrize("policy", ["low_latency", "auto"])
def test_polled_device_is_polled_in_virtual_time(policy: str) -> None:
    """A profile without notifications makes the bridge ask."""

    async def main() -> int:
        polled = dataclasses.replace(FIXED, polled=True)
        with open_device("sim", profile=polled) as device:
            stream = device.stream("s")
            assert not stream.notifies
            async with PollingBridge(policy) as bridge:
                await stream.launch(nothing)
                return bridge.stats.queries

    assert virtual_run(main()) > 0


@pytest.mark.parametrize("policy", ["low_latency", "auto", "thread", "spin"])
async def test_polled_device_is_polled_on_a_real_loop(policy: str) -> None:
    """Every policy of the bridge, the one with a thread too, gets to the end of the work."""
    with open_device("sim", profile=dataclasses.replace(FIXED, polled=True)) as device:
        stream = device.stream("s")
        async with PollingBridge(policy):
            for _ in range(20):
                await stream.launch(nothing)
        assert stream.completed == 20


def test_launch_that_runs_at_close_never_happens() -> None:
    """Nothing lands after ``close``, and nothing is left on the clock."""
    done: list[int] = []
    device = sim()
    launch = device.stream("s").launch(done.append, 1)
    assert not launch.query()
    device.close()
    assert device.timeline.clock.next_ns is None
    device.timeline.spend(1_000_000)
    assert done == []
