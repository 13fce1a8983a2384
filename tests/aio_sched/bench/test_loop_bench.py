"""``bench loop``: what it runs and reports. Never how fast: that is the benchmark's business."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aio_sched.bench import device_work
from aio_sched.bench.blocking import BlockingScheduler
from aio_sched.bench.device_work import SleepWork, cycles_per_s, device_worker, spinning
from aio_sched.bench.emulated import TimedDevice
from aio_sched.bench.host_work import HOST_WORK_KINDS, HostWork, HostWorkKind
from aio_sched.bench.loop import LoopRow, run_loop_bench
from aio_sched.bench.neighbours import Neighbours
from aio_sched.bench.rounds import SCHEDULES, Load, Rig
from streams.device import Device, open_device
from streams.errors import DeviceUnavailableError
from streams.launch import Operation
from streams.monitor import DeviceMonitor
from tests.aio_sched.pipelines import Doubler, until

_FIELDS = {
    "schedule": str,
    "device": str,
    "loop": str,
    "host_ms": float,
    "device_ms": float,
    "steps": int,
    "steps_per_s": float,
    "ideal_ratio": float,
    "device_busy": float,
    "step_overhead_us": float,
    "loop_lag_ms": dict,
}


def smoke(**chosen: Any) -> list[LoopRow]:
    """Run the smallest of benchmarks, changed by what is given."""
    smallest: dict[str, Any] = {
        "loops": ["uvloop"],
        "device_ms": [0.1],
        "host_shares": [0.5],
        "seconds": 0.001,
        "rounds": 1,
        "json": True,
    }
    return run_loop_bench(**{**smallest, **chosen})


@pytest.fixture
def cpu() -> Any:
    """An open CPU device."""
    with open_device("cpu") as device:
        yield device


# Rows -------------------------------------------------------------------------


def test_rows_have_exactly_the_documented_fields() -> None:
    """Every row has each field, with its type, and nothing else."""
    for row in smoke(device_ms=[0, 0.1]):
        assert {name: type(value) for name, value in row.items()} == _FIELDS
        assert list(row["loop_lag_ms"]) == ["p50", "p99", "max"]


def test_every_combination_gets_a_row_with_its_steps() -> None:
    """Schedules, loops, device times and host shares are crossed; empty stages come once."""
    rows = smoke(loops=["asyncio", "uvloop"], device_ms=[0, 0.1], host_shares=[0, 0.5], rounds=2)
    cells = [(row["loop"], row["device_ms"], row["host_ms"], row["schedule"]) for row in rows]
    expected = [
        (loop, device_ms, host_ms, schedule)
        for loop in ("asyncio", "uvloop")
        for device_ms, host_ms in ((0, 0), (0.1, 0), (0.1, 0.05))
        for schedule in SCHEDULES
    ]
    assert sorted(cells) == sorted(expected)
    assert all(row["steps"] == 2 * 10 for row in rows)


def test_empty_stages_have_no_ideal_and_all_their_time_is_overhead() -> None:
    """Without device work the ratio and the busy share are zero, not undefined."""
    for row in smoke(device_ms=[0]):
        assert row["ideal_ratio"] == row["device_busy"] == 0.0
        assert row["step_overhead_us"] > 0


def test_device_work_is_seen_by_every_schedule() -> None:
    """Each schedule keeps the device busy for a part of its time, and has an ideal."""
    for row in smoke(host_shares=[0]):
        assert 0 < row["device_busy"] <= 1
        assert row["ideal_ratio"] > 0


@pytest.mark.parametrize("host_work", HOST_WORK_KINDS)
def test_copies_and_kinds_of_host_work_run_under_every_schedule(host_work: HostWorkKind) -> None:
    """The pipeline with a table and copies runs, with host work of each kind."""
    rows = smoke(copies=True, host_work=host_work)
    assert [row["schedule"] for row in rows] == list(SCHEDULES)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_table_goes_to_stdout_and_progress_to_a_terminal(
    is_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``json`` the table says how it was measured and how busy the machine was."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    smoke(schedules=["overlap"], json=False)
    seen = capsys.readouterr()
    assert "ideal: the same device work" in seen.out
    assert "other processes took" in seen.out
    assert ("device 0.1 ms" in seen.err) == is_terminal


def test_json_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """With ``json`` the caller alone prints."""
    smoke(schedules=["overlap"])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedules": ["faster"]}, "schedule 'faster' is unknown"),
        ({"schedules": []}, "no schedule is chosen"),
        ({"loops": ["trio"]}, "loop 'trio' is unknown"),
        ({"device_ms": [-1]}, "none below 0"),
        ({"device_ms": []}, "one or more"),
        ({"host_shares": [-0.5]}, "none below 0"),
        ({"seconds": 0}, "seconds=0"),
        ({"rounds": 0}, "rounds=0"),
        ({"depth": 0}, "depth=0"),
        ({"host_work": "idle"}, "host work 'idle' is unknown"),
        ({"device": "abacus"}, "device 'abacus' is unknown"),
    ],
)
def test_wrong_argument_is_named(wrong: dict[str, Any], message: str) -> None:
    """Each argument out of range is refused with its value."""
    with pytest.raises(ValueError, match=message):
        smoke(**wrong)


# Rounds -----------------------------------------------------------------------


class Launches(DeviceMonitor):
    """Counts what was put on which stream."""

    def __init__(self) -> None:
        self.streams: list[str] = []

    def on_launch(self, operation: Operation) -> None:
        """Note the stream's name."""
        self.streams.append(operation.launch.event.recorded_on().name)


class FakeWork(SleepWork):
    """Device work that computes something else."""

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        super().__init__(0.0)
        self._fn = fn

    def queued(self) -> Callable[[Any], Any]:
        """Give the function."""
        return self._fn


def rig(device: Device, **changed: Any) -> Rig:
    """Make a rig on ``device``."""
    return Rig(**{"device": device, "worker": SleepWork, "host": HostWork(), "depth": 2, **changed})


def test_ideal_queues_as_many_launches_on_one_stream_and_leaves_none(cpu: Device) -> None:
    """The ideal is the same device work by itself: one launch that holds it, then all of them."""
    launches = Launches()
    cpu.add_monitor(launches)
    assert rig(cpu).ideal_s(Load(0.0001, 0.0, 12)) > 0
    assert launches.streams == ["ideal"] * 13
    assert cpu.streams == ()


@pytest.mark.parametrize("schedule", SCHEDULES)
async def test_round_measures_the_steps_it_was_asked_for(schedule: str, cpu: Device) -> None:
    """Steps to fill and to drain the device are run beside the measured ones, uncounted."""
    launches = Launches()
    cpu.add_monitor(launches)
    seen = await rig(cpu).run(schedule, Load(0.0001, 0.0, 12), ideal_s=0.0)
    assert seen.measured.num_steps == 12
    assert launches.streams.count("forward") == 5 + 12 + 2
    assert cpu.streams == ()


async def test_batches_cover_all_measured_steps(cpu: Device) -> None:
    """The time of the batches, weighted by their steps, is the time of the round."""
    measured = (await rig(cpu).run("overlap", Load(0.0, 0.0, 250), 0.0)).measured
    assert len(measured.batches_s) == 3
    whole_s = sum(100 * step_s for step_s in measured.batches_s[:2]) + 50 * measured.batches_s[2]
    assert whole_s == pytest.approx(measured.wall_s)


@pytest.mark.parametrize("schedule", SCHEDULES)
async def test_wrong_results_are_an_error_not_a_figure(schedule: str, cpu: Device) -> None:
    """A schedule that hands a step the results of another must not be timed."""
    wrong = rig(cpu, worker=lambda seconds: FakeWork(lambda value: value + 1))
    with pytest.raises(RuntimeError, match="step 0 was given the results of step 1"):
        await wrong.run(schedule, Load(0.0001, 0.0, 10), 0.0)


async def test_failing_device_work_ends_the_round(cpu: Device) -> None:
    """What the device work raises is raised, and the scheduler's streams are closed."""

    def broken(value: object) -> object:
        raise ZeroDivisionError("on the device")

    with pytest.raises(ZeroDivisionError, match="on the device"):
        await rig(cpu, worker=lambda seconds: FakeWork(broken)).run(
            "overlap", Load(0.0001, 0.0, 10), 0.0
        )
    assert cpu.streams == ()


async def test_blocking_schedule_keeps_the_overlapped_order(cpu: Device) -> None:
    """It launches ahead of what it blocks for, and every block is counted as allowed."""
    pipeline = Doubler([1, 2, 3])
    async with BlockingScheduler(pipeline, cpu) as scheduler:
        await pipeline.all_ended.wait()
    assert [entry for entry in pipeline.log if entry[0] != "prepare"] == [
        ("forward", 1),
        ("forward", 2),
        ("publish", 1),
        ("forward", 3),
        ("publish", 2),
        ("publish", 3),
    ]
    assert scheduler.guard.num_blocked == 0
    assert scheduler.guard.allowed.total() == 3


async def test_blocking_schedule_finishes_what_is_in_flight_when_stopped(cpu: Device) -> None:
    """A drain publishes what was launched."""
    pipeline = Doubler([1, 2])
    async with BlockingScheduler(pipeline, cpu):
        await until(lambda: ("forward", 1) in pipeline.log)
    launched = [item for what, item in pipeline.log if what == "forward"]
    assert pipeline.results == [2 * item for item in launched]
    assert not pipeline.failures


# Work -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HOST_WORK_KINDS)
async def test_host_work_takes_the_threads_cpu_time(kind: HostWorkKind) -> None:
    """It keeps the core of the loop's thread busy for at least as long as asked."""
    before_s = time.thread_time()
    await HostWork(kind).occupy(0.004)
    assert time.thread_time() - before_s >= 0.004


async def test_host_work_gives_the_loop_turns() -> None:
    """Other coroutines go on between its slices."""
    turns = 0

    async def bystander() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(bystander())
    await HostWork(slice_s=0.0005).occupy(0.005)
    task.cancel()
    assert turns >= 2


async def test_work_of_others_is_not_counted_as_host_work() -> None:
    """CPU time that other coroutines take in its pauses comes on top."""
    spent_s = 0.0

    async def bystander() -> None:
        nonlocal spent_s
        before_s = time.thread_time()
        while time.thread_time() - before_s < 0.004:
            pass
        spent_s += time.thread_time() - before_s

    task = asyncio.create_task(bystander())
    before_s = time.thread_time()
    await HostWork(slice_s=0.001).occupy(0.004)
    await task
    assert time.thread_time() - before_s >= 0.004 + spent_s


async def test_no_host_work_does_not_suspend() -> None:
    """Zero seconds are zero turns of the loop."""
    with pytest.raises(StopIteration):
        HostWork().occupy(0.0).send(None)


def test_slice_must_be_positive() -> None:
    """A slice of no length would never end."""
    with pytest.raises(ValueError, match="slice_s=0"):
        HostWork(slice_s=0)


def test_device_without_work_of_known_length_is_refused() -> None:
    """Other accelerators have no spinning kernel in torch; the error says what to use."""
    with pytest.raises(DeviceUnavailableError, match="use device 'cpu'"):
        device_worker(TimedDevice(1.0))


def test_spinning_work_counts_the_devices_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work for a GPU spins for as many cycles as its clock does in the time."""
    spun: list[int] = []
    monkeypatch.setattr(device_work, "_spin", spun.append)
    assert spinning(1_500_000_000.0)(0.002).queued()("kept") == "kept"
    assert spun == [3_000_000]


@pytest.mark.gpu
def test_spinning_work_lasts_about_as_long_as_asked() -> None:
    """The calibration is right to within a fifth."""
    where = torch.device("cuda")
    work = spinning(cycles_per_s(where))(0.02)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch's
    start.record()
    work.queued()(None)
    end.record()
    end.synchronize()
    assert 16 < start.elapsed_time(end) < 24


# Neighbours -------------------------------------------------------------------


def test_share_of_other_processes_is_what_the_kernel_accounts_beyond_ours(tmp_path: Path) -> None:
    """Time that is neither idle nor this process's own is theirs."""
    stat = tmp_path / "stat"
    stat.write_text("cpu 1000 0 0 500 0 0 0 0 0 0\ncpu0 0\n")
    neighbours = Neighbours(stat)
    stat.write_text("cpu 100000000 0 0 900 70 0 0 0 0 0\ncpu0 0\n")
    assert neighbours.share() == 1.0
    assert "other processes took 100%" in neighbours.note()
    stat.write_text("cpu 1000 0 0 900 70 0 0 0 0 0\ncpu0 0\n")
    assert neighbours.share() == 0.0


def test_share_of_other_processes_is_unknown_without_the_kernels_accounting(tmp_path: Path) -> None:
    """Where there is no such file, nothing is claimed."""
    neighbours = Neighbours(tmp_path / "absent")
    assert neighbours.share() is None
    assert "unknown" in neighbours.note()
