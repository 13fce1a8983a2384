"""What ``HazardChecker`` reports, and in which words."""

import asyncio
import gc
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
from streams.launch import Launch
from streams.stream import Stream
from tests.device_fixtures import HoldFactory
from tests.streams.hazards.lazy_device import LazyDevice


def touch(*values: object) -> None:
    """The function of every launch here; what it uses is what is declared."""


def launch(
    stream: Stream, step: int, stage: str, *, reads: object = None, writes: object = None
) -> Launch[None]:
    """Put a launch of one stage on a stream."""
    former = work_tag.set(WorkTag(step, stage))
    try:
        return stream.launch(
            touch,
            reads=() if reads is None else (reads,),
            writes=() if writes is None else (writes,),
        )
    finally:
        work_tag.reset(former)


def kinds(checker: HazardChecker) -> list[str]:
    """Return the kinds of the reports."""
    return [report.kind for report in checker.reports]


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
    site = r"at \S*test_checker\.py:\d+"
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


# Which memory -----------------------------------------------------------------


def test_views_conflict_where_their_bytes_overlap(lazy: LazyDevice) -> None:
    """A column and a row meet, two columns do not; storage counts, not the first address."""
    table, checker = torch.zeros(4, 4), HazardChecker()
    a, b, c = lazy.stream("a"), lazy.stream("b"), lazy.stream("c")
    with checker.watch(lazy):
        launch(a, 1, "forward", writes=table[:, 1])
        launch(b, 1, "other", writes=table[:, 2])
        assert kinds(checker) == []
        launch(c, 1, "copy", reads=table[2])
    assert [report.earlier and report.earlier.actor for report in checker.reports] == ["a", "b"]


def test_memory_that_is_made_anew_at_an_old_address_is_other_memory(lazy: LazyDevice) -> None:
    """A freed tensor's accesses are forgotten with it, wherever the next one lies."""
    checker = HazardChecker()
    streams = lazy.stream("a"), lazy.stream("b")
    with checker.watch(lazy):
        for number in range(1000):
            stream = streams[number % 2]
            cell = torch.zeros(4)
            launch(stream, number, "forward", writes=cell)
            stream.synchronize()
            del cell
    checker.raise_if_any()
    gc.collect()
    assert len(checker.memory) < 600


def test_access_to_rows_meets_tensor_of_the_same_storage(lazy: LazyDevice) -> None:
    """Rows of a buffer and a view of it are the same bytes."""
    table, checker = torch.zeros(4, 4), HazardChecker()
    with checker.watch(lazy):
        launch(lazy.stream("a"), 1, "forward", writes=Access("relay", "lens", (1, 3), table))
        launch(lazy.stream("b"), 1, "copy", reads=table[3])
        launch(lazy.stream("c"), 1, "copy", reads=table[2])
    (report,) = checker.reports
    assert report.memory == "part of relay.lens: tensor (4) float32"


def test_parts_that_the_host_knows_to_be_done_are_forgotten(lazy: LazyDevice) -> None:
    """A pool that is sliced anew each time costs no more in the end than in the beginning."""
    pool, checker = torch.zeros(100_000), HazardChecker()
    a, b = lazy.stream("a"), lazy.stream("b")
    with checker.watch(lazy):
        for number in range(3000):
            launch(a if number % 2 else b, number, "forward", writes=pool[number : number + 50])
            lazy.synchronize()
        assert checker.memory.num_cells(pool) <= 512
        checker.raise_if_any()


def test_parts_in_use_are_not_forgotten_with_the_others(lazy: LazyDevice) -> None:
    """However many parts were forgotten: what may still run races, rows and slices alike."""
    pool, checker = torch.zeros(10_000, 2), HazardChecker()
    a, b, c = lazy.stream("a"), lazy.stream("b"), lazy.stream("c")
    with checker.watch(lazy):
        launch(a, 0, "forward", writes=pool[:2])
        launch(a, 0, "forward", reads=Access("relay", "lens", (7000,), pool))
        for number in range(2000):
            launch(b, number, "forward", writes=pool[number + 10 : number + 20])
            b.synchronize()
        launch(b, 0, "forward", writes=Access("relay", "lens", (9000,), pool))
        launch(c, 1, "late", reads=pool[1])
        launch(c, 2, "late", writes=Access("relay", "lens", (7000,), pool))
        launch(c, 3, "late", reads=pool[9000:9001])
        assert kinds(checker) == ["RAW", "WAR", "RAW"]
        assert checker.memory.num_cells(pool) < 1000


def test_rows_of_two_layouts_of_one_storage_are_told_apart(lazy: LazyDevice) -> None:
    """Row 1 of four rows, and row 1 of the same bytes as two rows, are other bytes."""
    table, checker = torch.zeros(4, 4), HazardChecker()
    halves = table.view(2, 8)
    with checker.watch(lazy):
        launch(lazy.stream("a"), 1, "forward", writes=Access("relay", "quarter", (1,), table))
        launch(lazy.stream("b"), 1, "copy", writes=Access("relay", "half", (1,), halves))
        assert kinds(checker) == []
        launch(lazy.stream("c"), 1, "copy", reads=Access("relay", "half", (0,), halves))
    assert kinds(checker) == ["RAW"]


def test_columns_of_a_long_table_conflict_where_their_bytes_overlap(lazy: LazyDevice) -> None:
    """As those of a short one do, however many rows there are."""
    table, checker = torch.zeros(2048, 4), HazardChecker()
    with checker.watch(lazy):
        launch(lazy.stream("a"), 1, "forward", writes=table[:, 0:1])
        launch(lazy.stream("b"), 1, "other", writes=table[:, 2:3])
        launch(lazy.stream("c"), 1, "copy", reads=table[5, 3:])
        assert kinds(checker) == []
        launch(lazy.stream("d"), 1, "copy", reads=table[2047, :2])
        launch(lazy.stream("e"), 1, "copy", writes=table[:, 2:])
    found = [(r.kind, r.earlier and r.earlier.actor) for r in checker.reports]
    assert found == [("RAW", "a"), ("WAW", "b"), ("WAR", "c")]


def test_view_in_too_many_pieces_misses_no_overlap(lazy: LazyDevice) -> None:
    """A million pieces are not told apart, but each of them is covered."""
    table, checker = torch.zeros(1030, 2062, dtype=torch.uint8), HazardChecker()
    with checker.watch(lazy):
        launch(lazy.stream("a"), 1, "forward", writes=table[:, :2060:2])
        launch(lazy.stream("b"), 1, "copy", reads=table[500, 1000:1001])
        launch(lazy.stream("c"), 1, "copy", reads=table[1029, 2058:])
    assert kinds(checker) == ["RAW", "RAW"]


@pytest.mark.parametrize("memory", ["x", torch.eye(2).to_sparse()], ids=["text", "sparse"])
def test_what_is_no_memory_is_reported(lazy: LazyDevice, memory: object) -> None:
    """A checker cannot compare what it does not know, and says so; the launch is made."""
    checker = HazardChecker()
    with checker.watch(lazy):
        launch(lazy.stream("a"), 1, "forward", writes=memory)
    (report,) = checker.reports
    assert report.message.startswith("touch declares ")
    assert report.message.endswith("in reads= and writes=")


def test_sparse_tensors_are_described_without_their_values(lazy: LazyDevice) -> None:
    """To show values waits for a GPU, and would make each launch another finding."""
    checker, stream = HazardChecker(), lazy.stream("a")
    with checker.watch(lazy):
        for step in range(3):
            launch(stream, step, "forward", writes=(torch.eye(2) * step).to_sparse())
    (report,) = checker.reports
    assert report.count == 3
    assert "declares a sparse_coo tensor (2, 2) float32" in report.message


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
