"""What ``HazardChecker`` reports, and in which words."""

import asyncio
import re
from typing import Any

import pytest
import torch
from torch.overrides import BaseTorchFunctionMode

from streams.current import WorkTag, on_stream, use_stream, work_tag
from streams.device import Device
from streams.errors import EventNotRecordedError, NotIssuerError, TorchModeOpenError
from streams.event import Event
from streams.guard import HostBlockGuard
from streams.hazards import Access, HazardChecker, HazardError, Report
from tests.device_fixtures import HoldFactory
from tests.streams.hazards.launches import kinds, launch, touch
from tests.streams.hazards.lazy_device import LazyDevice


@pytest.fixture
def lazy() -> LazyDevice:
    """A device on which no order comes from timing."""
    return LazyDevice()


# In words ---------------------------------------------------------------------


def test_report_names_memory_accesses_missing_edge_and_seed() -> None:
    """One line says what raced, where it was asked for, and which event would help."""
    device, checker = LazyDevice(seed=41), HazardChecker()
    schedule, forward = device.stream("schedule"), device.stream("forward")
    lens = Access("relay", "lens", (3,), torch.zeros(8))
    with checker.watch(device):
        launch(forward, 17, "forward", reads=lens)
        former = work_tag.set(WorkTag(17, "forward"))
        forward.record("read_done")
        work_tag.reset(former)
        launch(schedule, 18, "prepare", writes=lens)
    (report,) = checker.reports
    site = r"at \S*launches\.py:\d+"
    assert re.fullmatch(
        rf"WAR on relay\.lens\[3\]: prepare#18 \(schedule: touch #1\) writes {site}, "
        rf"forward#17 \(forward: touch #1\) reads {site}; missing: read_done#17 -> schedule; "
        r"--seed 41",
        str(report),
    )


def test_missing_edge_without_an_event_says_behind_what(lazy: LazyDevice) -> None:
    """Where nobody recorded anything, the report says where to record."""
    cell, checker = torch.zeros(2), HazardChecker()
    with checker.watch(lazy):
        launch(lazy.stream("a"), 1, "forward", writes=cell)
        launch(lazy.stream("b"), 1, "copy", reads=cell)
    (report,) = checker.reports
    assert report.missing == "an event of 'a' behind touch #1 -> b"
    assert report.memory == "tensor (2) float32"


def test_same_race_in_each_step_is_one_report_with_a_count(lazy: LazyDevice) -> None:
    """Steps and rows do not multiply the reports; stages and lines do."""
    table, told = torch.zeros(8, 4), list[Report]()
    checker = HazardChecker(on_report=told.append)
    a, b = lazy.stream("a"), lazy.stream("b")
    with checker.watch(lazy):
        for step in range(5):
            rows = (step, step + 1)
            launch(a, step, "forward", writes=Access("relay", "lens", rows, table))
            launch(b, step, "copy", reads=Access("relay", "lens", rows, table))
            b.wait_stream(a)
            a.wait_stream(b)
    assert [(report.count, report.rows) for report in checker.reports] == [(5, (0, 1))]
    assert len(told) == 1
    assert "5 times" in str(checker.reports[0])


def test_equal_tensors_at_the_same_lines_get_a_report_each(lazy: LazyDevice) -> None:
    """Two tensors of one shape in a step are two findings; the next step's are the same two."""
    checker, a, b = HazardChecker(), lazy.stream("a"), lazy.stream("b")
    with checker.watch(lazy):
        for step in range(5):
            for cell in torch.zeros(2), torch.zeros(2):
                launch(a, step, "forward", writes=cell)
                launch(b, step, "copy", reads=cell)
    assert [report.count for report in checker.reports] == [5, 5]


def test_reports_of_very_many_tensors_are_bounded(lazy: LazyDevice) -> None:
    """Also outside of any step."""
    checker, a, b = HazardChecker(), lazy.stream("a"), lazy.stream("b")
    with checker.watch(lazy):
        for _ in range(100):
            cell = torch.zeros(2)
            a.launch(touch, writes=[cell])
            b.launch(touch, reads=[cell])
    assert [report.count for report in checker.reports] == [1] * 7 + [93]


def test_report_names_the_device_among_several() -> None:
    """Streams of two devices have the same names."""
    first, second, checker = LazyDevice(), LazyDevice(), HazardChecker()
    with checker.watch(first), checker.watch(second):
        for device in first, second:
            cell = torch.zeros(2)
            launch(device.stream("a"), 1, "forward", writes=cell)
            launch(device.stream("b"), 1, "copy", reads=cell)
    assert [report.device for report in checker.reports] == ["", f"{second.name} (2)"]
    assert f"; device {second.name} (2)" in str(checker.reports[1])


def test_raise_if_any_raises_all_reports(lazy: LazyDevice) -> None:
    """The error lists every report; without reports nothing is raised."""
    cell, checker = torch.zeros(2), HazardChecker()
    checker.raise_if_any()
    with checker.watch(lazy):
        launch(lazy.stream("a"), 1, "forward", writes=cell)
        launch(lazy.stream("b"), 1, "copy", reads=cell)
        launch(lazy.stream("c"), 1, "late", writes=cell)
    with pytest.raises(HazardError, match="3 hazards were found") as raised:
        checker.raise_if_any()
    assert [report.kind for report in raised.value.reports] == ["RAW", "WAW", "WAR"]
    assert all(str(report) in str(raised.value) for report in checker.reports)


# Whatever the timing ----------------------------------------------------------


@pytest.mark.parametrize("is_held", [False, True])
async def test_race_is_reported_whatever_the_timing(
    device: Device, hold: HoldFactory, is_held: bool
) -> None:
    """A writer that is done long ago, and one that has not begun, race alike."""
    cell, checker = torch.zeros(2), HazardChecker()
    a, b = device.stream("a"), device.stream("b")
    with checker.watch(device):
        held = hold(a) if is_held else None
        written = launch(a, 1, "forward", writes=cell)
        if held is None:
            a.block_until(1)  # no verb for hosts: nobody is told that they learned anything
        launch(b, 1, "copy", reads=cell)
        if held is not None:
            held.release()
        await written
    assert kinds(checker) == ["RAW"]


async def test_edges_of_every_verb_order(device: Device) -> None:
    """Await, query, synchronize, drain, wait_event, wait_stream, a taken value: no report."""
    cell, checker = torch.zeros(2), HazardChecker()
    a, b = device.stream("a"), device.stream("b")
    with checker.watch(device):
        await launch(a, 1, "await", writes=cell)
        launch(b, 2, "drained", writes=cell)
        await b.drained()
        launch(a, 3, "synchronized", writes=cell)
        a.synchronize()
        launch(b, 4, "device", writes=cell)
        device.synchronize()
        launch(a, 5, "event", writes=cell)
        b.wait_event(a.record("written"))
        launch(b, 6, "stream", writes=cell)
        a.wait_stream(b)
        taken = launch(a, 7, "taken", writes=cell)
        last = b.launch(touch, taken, reads=[cell])
        last.event.synchronize()
        assert last.query()
        launch(a, 8, "queried", writes=cell)
        await device.drain()
    checker.raise_if_any()
    assert checker.num_accesses > 8


def test_blocking_in_a_thread_without_the_verb_is_no_edge(lazy: LazyDevice) -> None:
    """Only what the host was told counts; a counter that it looked at does not."""
    cell, checker = torch.zeros(2), HazardChecker()
    a, b = lazy.stream("a"), lazy.stream("b")
    with checker.watch(lazy):
        event = launch(a, 1, "forward", writes=cell).event
        a.block_until(event.number)
        launch(b, 1, "copy", reads=cell)
    assert kinds(checker) == ["RAW"]


# The host ---------------------------------------------------------------------


async def test_value_taken_before_its_launch_is_complete_is_reported(
    lazy: LazyDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the wait in ``Launch.wait`` did nothing, the host would read too early."""

    async def returns_at_once(self: Event, timeout: float | None = None) -> None:
        pass

    checker = HazardChecker()
    with checker.watch(lazy):
        await launch(lazy.stream("a"), 1, "forward")
        assert kinds(checker) == []
        monkeypatch.setattr(Event, "wait", returns_at_once)
        await launch(lazy.stream("b"), 1, "forward")
    (report,) = checker.reports
    assert report.memory == "the value of touch"
    assert report.missing == "an event of 'b' behind touch #1 -> host (await it)"


async def test_value_from_a_stream_that_was_closed_is_no_finding(lazy: LazyDevice) -> None:
    """The order is the event's, whatever became of its stream."""
    checker, stream = HazardChecker(), lazy.stream("a")
    with checker.watch(lazy):
        launched = launch(stream, 1, "forward")
        stream.synchronize()
        stream.close()
        launch(lazy.stream("b"), 1, "forward")
        await launched
    checker.raise_if_any()


def test_host_access_under_a_launch_is_reported(lazy: LazyDevice) -> None:
    """The host reads before the writer is known to be done, and writes under a reader."""
    cell, checker = torch.zeros(2), HazardChecker()
    with checker.watch(lazy):
        launch(lazy.stream("a"), 1, "forward", writes=cell)
        checker.on_host_access(lazy, cell, is_write=False)
        checker.on_host_access(lazy, cell, is_write=True)
    assert kinds(checker) == ["RAW", "WAW"]


# Misuse -----------------------------------------------------------------------


async def test_refused_calls_are_reported_too(lazy: LazyDevice) -> None:
    """An error may be swallowed on its way; the report stays."""
    checker, stream = HazardChecker(), lazy.stream("a")
    with checker.watch(lazy):
        with pytest.raises(EventNotRecordedError):
            stream.wait_event(Event("copy_done"))
        with use_stream(stream), pytest.raises(EventNotRecordedError):
            Event("read_done").query()
        stream.issuer = _Task()  # type: ignore[assignment]  # somebody else
        with pytest.raises(NotIssuerError):
            stream.record()
    assert kinds(checker) == ["unrecorded", "unrecorded", "issuer"]
    assert "event 'copy_done' was never recorded" in str(checker.reports[0])


@pytest.mark.parametrize("mode", [BaseTorchFunctionMode, torch.no_grad, torch.inference_mode])
async def test_torch_mode_open_at_a_suspension_is_reported(lazy: LazyDevice, mode: Any) -> None:
    """A stage that suspends inside a torch mode would run other tasks in it."""

    async def stage() -> None:
        with mode():
            await asyncio.sleep(0)

    checker, stream = HazardChecker(), lazy.stream("forward")
    with checker.watch(lazy), pytest.raises(TorchModeOpenError):
        await on_stream(stream, HostBlockGuard(strict=True).run(stage()))
    assert kinds(checker) == ["torch_mode"]
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


class _Task:
    def get_name(self) -> str:
        """Name a task that owns a stream."""
        return "issuer"


# Attaching --------------------------------------------------------------------


def test_events_from_before_the_checker_order_their_stream(lazy: LazyDevice) -> None:
    """A checker may come late: an old event still orders all that its stream did."""
    cell, checker = torch.zeros(2), HazardChecker()
    a, b = lazy.stream("a"), lazy.stream("b")
    launch(a, 1, "forward", writes=cell)
    event = a.record("written")
    with checker.watch(lazy):
        b.wait_event(event)
        launch(b, 1, "copy", reads=cell)
    launch(a, 2, "unseen", writes=cell)
    checker.raise_if_any()


def test_two_checkers_watch_one_device(lazy: LazyDevice) -> None:
    """Each keeps its own clocks on the events."""
    cell, first, second = torch.zeros(2), HazardChecker(), HazardChecker()
    a, b = lazy.stream("a"), lazy.stream("b")
    with first.watch(lazy), second.watch(lazy):
        launch(a, 1, "forward", writes=cell)
        b.wait_event(a.record("written"))
        launch(b, 1, "copy", reads=cell)
        launch(a, 2, "forward", writes=cell)
    assert kinds(first) == kinds(second) == ["WAR"]
