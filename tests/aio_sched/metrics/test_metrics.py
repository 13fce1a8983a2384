"""What the scheduler's statistics say of known timelines, and of a real scheduler."""

import json
from typing import NamedTuple

import pytest

from aio_sched.loop import OverlapScheduler, SequentialScheduler
from aio_sched.loop_lag import LagSummary
from aio_sched.metrics import SchedulerStats, StatsCollector
from aio_sched.metrics.bubbles import Cause
from streams.device import open_device
from tests.aio_sched.pipelines import Doubler
from tests.aio_sched.scenes import Clock, operation, span

LAG = LagSummary(0.0001, 0.002, 0.003, 100, 0)


class Scene(NamedTuple):
    """A collector, and the time that it is told."""

    collector: StatsCollector
    clock: Clock

    def launch(self, number: int, at_s: float) -> None:
        """Put a launch on the forward stream."""
        self.clock.now_s = at_s
        self.collector.on_launch(operation("forward", number))

    def stats(self, at_s: float, loop_lag: LagSummary | None = None) -> SchedulerStats:
        """Take a snapshot."""
        self.clock.now_s = at_s
        return self.collector.snapshot(loop_lag=loop_lag)


@pytest.fixture
def scene() -> Scene:
    """One that has seen two steps: from 10 to 50, 25 busy, 4 of 9 host seconds hidden."""
    clock = Clock()
    collector = StatsCollector(clock=clock)
    scene = Scene(collector, clock)
    collector.state("prepare", 0.0)
    collector.state("forward", 8.0)
    scene.launch(1, 10.0)
    collector.state("prepare", 11.0)
    collector.ran(1, "prepare", 11.0, 15.0)
    collector.on_span(span("forward", 1, 0, 10.0, 20.0))
    collector.state("room", 15.0)
    collector.published(0, 22.0)
    collector.state("forward", 22.0)
    scene.launch(2, 25.0)
    collector.on_span(span("forward", 2, 1, 26.0, 41.0))
    collector.state("idle", 26.0)
    collector.ran(1, "publish", 42.0, 47.0)
    collector.failed(1, ValueError("bad"))
    collector.published(1, 48.0)
    return scene


def test_known_timeline_gives_its_fractions(scene: Scene) -> None:
    """Busy, hidden and bubbles are what the hand-made times say."""
    stats = scene.stats(50.0)
    assert (stats.steps, stats.failures) == (2, 1)
    assert (stats.elapsed_s, stats.wall_s, stats.busy_s) == (40.0, 40.0, 25.0)
    assert stats.bubbles == {"host_prepare": 3.0, "publish": 2.0, "device": 1.0, "empty_queue": 9.0}
    assert stats.bubble_shares[Cause.HOST_PREPARE] == 3.0 / 40.0
    assert stats.steps_per_s == 2 / 40.0
    assert stats.device_busy == 25.0 / 40.0
    assert stats.device_busy_loaded == 25.0 / 31.0
    assert stats.hidden_host == 4.0 / 9.0


def test_snapshot_does_not_change_with_later_steps(scene: Scene) -> None:
    """What was handed out stays as it is, and cannot be changed either."""
    stats = scene.stats(50.0)
    scene.collector.published(2, 60.0)
    scene.collector.state("prepare", 60.0)
    assert stats.steps == 2
    assert stats.bubbles[Cause.EMPTY_QUEUE] == 9.0
    with pytest.raises(TypeError, match="does not support item assignment"):
        stats.bubbles[Cause.PUBLISH] = 0.0  # type: ignore[index]  # that it is refused is the test


def test_difference_of_snapshots_is_the_window_between(scene: Scene) -> None:
    """A window's rates come from two snapshots."""
    earlier = scene.stats(50.0)
    scene.collector.published(2, 60.0)
    window = scene.stats(60.0, LAG).since(earlier)
    assert (window.steps, window.failures) == (1, 0)
    assert window.steps_per_s == 0.1
    assert window.bubbles == {"host_prepare": 0, "publish": 0, "device": 0, "empty_queue": 10.0}
    assert window.device_busy == 0.0
    assert window.device_busy_loaded is None
    assert window.hidden_host is None
    assert window.loop_lag == LAG


def test_time_after_stop_does_not_count(scene: Scene) -> None:
    """A stopped scheduler's rates stay what they were when it stopped."""
    scene.collector.state("stopped", 50.0)
    assert scene.stats(1000.0) == scene.stats(50.0)
    assert scene.stats(1000.0).elapsed_s == 40.0


def test_other_streams_do_not_count(scene: Scene) -> None:
    """Copies and the work of other schedulers are not the forward stream's."""
    scene.collector.on_launch(operation("copy", 7))
    scene.collector.on_span(span("other.forward", 7, 1, 42.0, 49.0))
    assert scene.stats(50.0).busy_s == 25.0


def test_nothing_launched_yet_gives_no_fractions() -> None:
    """Before the first launch there is nothing to be a fraction of."""
    collector = StatsCollector()
    collector.state("prepare", 0.0)
    stats = collector.snapshot()
    assert stats == SchedulerStats()
    assert stats.steps_per_s == 0.0
    assert stats.device_busy is None
    assert stats.bubble_shares == dict.fromkeys(Cause, 0.0)


def test_device_without_timing_gives_rates_only() -> None:
    """Where the device does not say when it ran, no fraction is made up."""
    scene = Scene(StatsCollector(is_measured=False, clock=(clock := Clock())), clock)
    for number in range(1, 4):
        scene.launch(number, float(number))
        scene.collector.ran(number, "publish", number, number + 0.5)
        scene.collector.published(number, number + 0.5)
    stats = scene.stats(5.0)
    assert stats.steps_per_s == 3 / 4.0
    assert (stats.device_busy, stats.device_busy_loaded, stats.hidden_host) == (None, None, None)
    assert stats.wall_s == 0.0


def test_dict_of_stats_is_plain_json(scene: Scene) -> None:
    """Every number is there for a machine, and survives JSON."""
    numbers = scene.stats(50.0, LAG).as_dict()
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers["bubbles_s"]["publish"] == 2.0
    assert numbers["bubble_shares"]["empty_queue"] == 9.0 / 40.0
    assert numbers["loop_lag_ms"] == {"p50": 0.1, "p99": 2.0, "max": 3.0}
    assert SchedulerStats().as_dict()["loop_lag_ms"] is None


@pytest.mark.parametrize("kind", [OverlapScheduler, SequentialScheduler])
async def test_real_scheduler_accounts_for_its_whole_run(
    kind: type[OverlapScheduler | SequentialScheduler],
) -> None:
    """On the CPU device nothing of the run is left over, whatever the schedule."""
    pipeline = Doubler(list(range(20)))
    with open_device("cpu") as device:
        async with kind(pipeline, device) as scheduler:
            await pipeline.all_ended.wait()
        stats = scheduler.stats
    assert (stats.steps, stats.failures) == (20, 0)
    assert stats.wall_s == pytest.approx(stats.elapsed_s)
    assert stats.busy_s > 0
    assert stats.host_s > 0
    assert stats.hidden_host is not None
    assert 0.0 <= stats.hidden_host <= 1.0
