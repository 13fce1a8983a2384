"""Faults strike where the plan says, are what it says, and are counted."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch

from aio_sched.testing import virtual_run
from streams.device import Device, open_device
from streams.errors import DeadlineError, DeadlockError, DeviceLostError
from streams.simulated import Fault, FaultKind, FaultPlan, InjectedFaultError
from streams.stream import Stream
from tests.streams.simulated.tools import FIXED, Spans, nothing, tagged


def stage_copy() -> None:
    """Stand in for a copy to the device."""


def run(plan: FaultPlan, main: Callable[[Device, Stream], Awaitable[Any]]) -> Any:
    """Run a coroutine with a device that has the faults of ``plan``, in virtual time."""

    async def run_on() -> Any:
        with open_device("sim", profile=FIXED, faults=plan) as device:
            return await main(device, device.stream("s"))

    return virtual_run(run_on())


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (FaultKind.LAUNCH_RAISES, InjectedFaultError),
        (FaultKind.OUT_OF_MEMORY, torch.OutOfMemoryError),
    ],
)
def test_failing_launch_fails_alone(kind: FaultKind, error: type[Exception]) -> None:
    """The one launch raises instead of running; the stream goes on."""
    plan = FaultPlan([Fault(kind, nth=2)])
    done: list[int] = []

    async def main(device: Device, stream: Stream) -> None:
        launches = [stream.launch(done.append, number) for number in range(3)]
        with pytest.raises(error, match=f"injected fault: {kind.value}"):
            await launches[1]
        await launches[2]
        assert device.lost is None

    run(plan, main)
    assert done == [0, 2]
    assert plan.activations == {plan.faults[0]: 1}


def test_hanging_launch_holds_its_stream_for_good() -> None:
    """Deadlines expire, blocking is a deadlock with the reason, other streams go on."""
    plan = FaultPlan([Fault(FaultKind.LAUNCH_HANGS)])

    async def main(device: Device, stream: Stream) -> None:
        hung = stream.launch(nothing)
        with pytest.raises(DeadlineError):
            await hung.wait(timeout=60)
        with pytest.raises(DeadlockError, match="hangs"):
            stream.block_until(hung.event.number)
        await device.stream("other").launch(nothing)

    run(plan, main)
    assert plan.unfired == ()


def test_lost_device_is_lost() -> None:
    """The device goes where the launch would have ended, and takes its waiters along."""
    plan = FaultPlan([Fault(FaultKind.DEVICE_LOST)])

    async def main(device: Device, stream: Stream) -> None:
        with pytest.raises(DeviceLostError, match="device_lost"):
            await stream.launch(nothing)
        assert isinstance(device.lost, InjectedFaultError)

    run(plan, main)
    assert plan.unfired == ()


def times_of(kind: FaultKind) -> tuple[dict[str, tuple[int, int]], FaultPlan]:
    """Run a launch and a copy; return when each ran."""
    plan, spans = FaultPlan([Fault(kind, factor=3)]), Spans()

    async def main(device: Device, stream: Stream) -> None:
        device.add_monitor(spans)
        stream.launch(nothing)
        await stream.launch(stage_copy)

    run(plan, main)
    return spans.times_us, plan


def test_slow_copy_and_slow_launch_take_longer() -> None:
    """A slow copy strikes copies only, a slow launch whatever comes first."""
    times, plan = times_of(FaultKind.SLOW_COPY)
    assert times == {"nothing": (0, 10), "stage_copy": (10, 40)}
    assert plan.unfired == ()
    times, plan = times_of(FaultKind.SLOW_LAUNCH)
    assert times == {"nothing": (0, 30), "stage_copy": (30, 40)}
    assert plan.unfired == ()


def test_late_wakeup_delays_the_waiter_only() -> None:
    """Who waits learns late; what the device has queued goes on at once."""
    plan = FaultPlan([Fault(FaultKind.LATE_WAKEUP, delay_us=500)])

    async def main(device: Device, stream: Stream) -> tuple[float, float]:
        spans = Spans()
        device.add_monitor(spans)
        first, _ = stream.launch(nothing), stream.launch(torch.neg, torch.zeros(1))
        await first
        return asyncio.get_running_loop().time(), spans.spans[-1].end_s

    woken_s, second_end_s = run(plan, main)
    assert woken_s == pytest.approx(510e-6, abs=2e-6)
    assert second_end_s == pytest.approx(20e-6)
    assert plan.unfired == ()


def test_query_error_is_raised_once() -> None:
    """The question fails, its waiter gets the error, and the next question is answered."""
    plan = FaultPlan([Fault(FaultKind.QUERY_ERROR)])

    async def main(device: Device, stream: Stream) -> None:
        launch = stream.launch(nothing)
        with pytest.raises(InjectedFaultError, match="query_error"):
            await launch
        await launch

    run(plan, main)
    assert plan.activations.total() == 1


def test_site_is_chosen_by_stage_label_step_and_pass() -> None:
    """A fault strikes the launches that match all of what it states, and no other."""
    calls = [(stage, step) for step in (1, 2, 3) for stage in ("prepare", "forward")]

    def struck(**site: Any) -> list[tuple[str, int, str]]:
        plan = FaultPlan([Fault(FaultKind.LAUNCH_RAISES, **site)])
        failed: list[tuple[str, int, str]] = []

        async def main(device: Device, stream: Stream) -> None:
            launches = {}
            for stage, step in calls:
                with tagged(stage, step):
                    launches[stage, step, "nothing"] = stream.launch(nothing)
                    launches[stage, step, "stage_copy"] = stream.launch(stage_copy)
            await stream.drained()
            failed.extend(key for key, launch in launches.items() if launch.error is not None)

        run(plan, main)
        return failed

    assert struck() == [("prepare", 1, "nothing")]
    assert struck(stage="forward", nth=3) == [("forward", 2, "nothing")]
    assert struck(step=2, label="stage_copy") == [("prepare", 2, "stage_copy")]
    assert len(struck(label="stage_copy", nth=None)) == 6
    assert struck(stage="publish", nth=None) == []


def test_late_activations_are_not_counted_before_they_take_effect() -> None:
    """A launch that never ran was struck by nothing."""
    plan = FaultPlan([Fault(FaultKind.LAUNCH_RAISES)])
    with open_device("sim", faults=plan) as device:
        device.stream("s").launch(nothing)
    assert plan.unfired == plan.faults
    assert "0x" in repr(plan)


def test_random_plan_is_a_function_of_its_seed() -> None:
    """Plans can be drawn, within what is asked for."""
    sites = [FaultPlan.random(seed, num_faults=2).faults for seed in range(100)]
    assert sites == [FaultPlan.random(seed, num_faults=2).faults for seed in range(100)]
    assert {fault.kind for plan in sites for fault in plan} == set(FaultKind)
    only = FaultPlan.random(3, kinds=[FaultKind.SLOW_COPY], stages=[None], max_nth=1).faults
    assert only == (Fault(FaultKind.SLOW_COPY),)


@pytest.mark.parametrize("options", [{"nth": 0}, {"factor": 0}, {"delay_us": -1}])
def test_impossible_site_is_refused(options: dict[str, Any]) -> None:
    """A site that could never strike, or not as stated, is a caller's mistake."""
    with pytest.raises(ValueError, match="positive"):
        Fault(FaultKind.SLOW_LAUNCH, **options)


def test_kind_may_be_given_by_name() -> None:
    """Names are those of the kinds; another is refused."""
    assert Fault("out_of_memory").kind is FaultKind.OUT_OF_MEMORY  # type: ignore[arg-type]  # by name
    with pytest.raises(ValueError, match="melted"):
        Fault("melted")  # type: ignore[arg-type]  # the case


@pytest.mark.parametrize(
    "faults", ["launch_raises", ["launch_raises"], Fault(FaultKind.LAUNCH_RAISES), 3]
)
def test_only_a_list_of_faults_is_a_plan(faults: Any) -> None:
    """Or the first launch would fail, with an error that says nothing of the plan."""
    with pytest.raises(TypeError, match=r"faults=.*: give a list of Fault"):
        FaultPlan(faults)
