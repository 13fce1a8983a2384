"""Who learns how late, and of what, when a step cannot end."""

from dataclasses import replace

from torch import Tensor

from aio_sched import HostCopy, Step
from aio_sched.testing.schedule import Schedule
from aio_sched.testing.trial import run_once
from buffers.keep_alive import KeepAlive
from streams.device import open_device
from streams.errors import DeadlineError
from streams.launch import Launch
from streams.simulated import PROFILES, Fault, FaultKind, FaultPlan
from tests.faults.ledger import How
from tests.faults.pipelines import Patient, Squares
from tests.faults.scenarios import Service


class Twice(Squares):
    """Copies its result to the host twice, and awaits one copy after the other."""

    async def forward(  # type: ignore[override]  # two copies instead of one
        self, step: Step, inputs: Launch[Tensor]
    ) -> tuple[HostCopy, HostCopy]:
        """Square it."""
        squares = step.launch(lambda numbers: numbers.square(), inputs)
        return step.copy_to_host(squares), step.copy_to_host(squares)

    async def publish(  # type: ignore[override]
        self, step: Step, inputs: Launch[Tensor], output: tuple[HostCopy, HostCopy]
    ) -> None:
        """Await the slow copy, and then the one that hangs."""
        await output[0]
        await super().publish(step, inputs, output[1])


def test_second_wait_of_publish_has_what_is_left_of_the_deadline() -> None:
    """A copy took 0.9 s of the one second: the next one, which hangs, has a tenth left."""
    slow = replace(PROFILES["friendly"], copy_us=(450e3, 450e3))
    schedule = Schedule(
        profile=slow, faults=(Fault(FaultKind.LAUNCH_HANGS, label="host_copy", nth=2),)
    )
    service = Service(Twice, 1, is_dry=False, wait_deadline_s=1.0)
    outcome = run_once(service, schedule)
    assert isinstance(outcome.error, DeadlineError)
    [[end]] = service.ledger.ends.values()
    assert 1.0 <= end.at_s <= 1.01


def test_step_cut_short_by_the_end_names_what_ended_it() -> None:
    """The issuer was suspended in prepare when a device that hangs stopped the scheduler."""
    hang = Fault(FaultKind.LAUNCH_HANGS, label="stage_copy", nth=2)
    service = Service(Patient, is_dry=False, wait_deadline_s=1.0)
    run_once(service, Schedule(faults=(hang,)))
    cut_short = [
        error for error in service.ledger.ended(How.ERROR).values() if "cut short" in str(error)
    ]
    assert cut_short
    assert all("stage_copy" in str(error.__cause__) for error in cut_short)


def test_query_that_raises_releases_nothing_and_stops_nothing() -> None:
    """Who collects asked about somebody else's work; it stays held until it is known to be over."""
    fault = Fault(FaultKind.QUERY_ERROR, label="asked_about")
    with open_device("sim", faults=FaultPlan([fault])) as device:
        stream, keep_alive, released = device.stream("work"), KeepAlive(device), list[str]()

        def asked_about() -> None:
            """Do nothing."""

        launch = stream.launch(asked_about)
        keep_alive.release_at(launch.event, lambda: released.append("slot"))
        assert keep_alive.collect() == 0
        assert released == []
        launch.event.block()
        assert keep_alive.collect() == 1
        assert released == ["slot"]
