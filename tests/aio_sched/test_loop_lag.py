"""The loop's lag: what counts as late, by how much, and what is left when it ends."""

import asyncio
import time

import pytest

from aio_sched.loop_lag import LoopLagMonitor
from tests.aio_sched.pipelines import until


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """The clock of ``lag``."""
    return Clock()


@pytest.fixture
def lag(clock: Clock) -> LoopLagMonitor:
    """Beats every millisecond of the loop, and takes the time from ``clock``."""
    return LoopLagMonitor(clock=clock)


async def beats(lag: LoopLagMonitor, num: int = 1) -> None:
    """Let the loop run until so many further beats have come."""
    target = lag.num_beats + num
    await until(lambda: lag.num_beats >= target)


async def test_blocked_loop_shows_as_a_stall() -> None:
    """Real time that a callback takes from the loop is the lag of everybody else."""
    async with LoopLagMonitor() as lag:
        await beats(lag)
        before_s = time.perf_counter()
        time.sleep(0.05)  # noqa: ASYNC251 - this is the blocking call that is to be seen
        after_s = time.perf_counter()
        await beats(lag)
    summary = lag.summary()
    assert summary.max_s >= 0.049
    assert summary.num_stalls >= 1
    assert any(s.start_s <= before_s + 0.001 and s.end_s >= after_s for s in lag.stalls)


async def test_beat_in_time_or_early_has_no_lag(lag: LoopLagMonitor) -> None:
    """Timers of uvloop may fire early; nobody was late then."""
    async with lag:
        await beats(lag, 3)
    assert lag.summary().max_s == 0.0
    assert lag.summary().num_beats >= 3
    assert not lag.stalls


async def test_late_beat_has_the_lag_beyond_its_due_time(lag: LoopLagMonitor, clock: Clock) -> None:
    """Lag is counted from when the beat was due, not from when it was set."""
    async with lag:
        await beats(lag)
        clock.now_s += 0.006
        await beats(lag)
    assert lag.summary().max_s == pytest.approx(0.005)
    assert lag.num_stalls == 0


async def test_stall_is_kept_with_its_start_and_end(lag: LoopLagMonitor, clock: Clock) -> None:
    """A trace can show when the loop stood still."""
    async with lag:
        await beats(lag)
        clock.now_s += 0.5
        await beats(lag)
    (stall,) = lag.stalls
    assert stall.start_s == pytest.approx(100.001)
    assert stall.end_s == pytest.approx(100.5)


async def test_stall_that_the_block_itself_caused_is_counted(
    lag: LoopLagMonitor, clock: Clock
) -> None:
    """The heartbeat had no chance to run yet when the blocking code asks or leaves."""
    async with lag:
        clock.now_s += 0.5
        assert lag.summary().max_s == pytest.approx(0.499)
        clock.now_s += 0.7
    assert lag.summary().max_s == pytest.approx(0.7)
    assert lag.num_stalls == 2


async def test_long_stall_weighs_as_long_as_it_lasted(lag: LoopLagMonitor, clock: Clock) -> None:
    """Most of the time was one stall, so most of what came due was late, not one beat of twenty."""
    async with lag:
        await beats(lag, 20)
        clock.now_s += 0.2
        await beats(lag)
    summary = lag.summary()
    assert 0.05 < summary.p50_s < 0.15
    assert summary.p99_s == pytest.approx(0.197, rel=0.05)


async def test_percentiles_are_close_to_the_lags_seen(lag: LoopLagMonitor, clock: Clock) -> None:
    """Buckets are fine enough: within 3 % at any scale."""
    async with lag:
        for _ in range(9):
            await beats(lag)
            clock.now_s += 0.0019
            await beats(lag)
    assert lag.summary().p99_s == pytest.approx(0.0009, rel=0.03)


async def test_memory_for_stalls_is_bounded(clock: Clock) -> None:
    """Of a loop that stalls for ever, the latest stalls are kept, and all are counted."""
    async with LoopLagMonitor(max_stalls=2, clock=clock) as lag:
        for _ in range(5):
            clock.now_s += 1.0
            lag.summary()
    assert lag.num_stalls == 5
    assert [stall.end_s for stall in lag.stalls] == [104.0, 105.0]


async def test_after_the_block_nothing_is_measured(lag: LoopLagMonitor, clock: Clock) -> None:
    """What the loop does later is not in the summary."""
    async with lag:
        pass
    clock.now_s += 5.0
    assert lag.summary().max_s == 0.0


async def test_block_that_is_cancelled_ends_the_heartbeat(lag: LoopLagMonitor) -> None:
    """The cancellation passes, and no task is left (the test's fixtures look)."""
    entered = asyncio.Event()

    async def measured() -> None:
        async with lag:
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(measured())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "stopped" in repr(lag)


async def test_second_use_goes_on_counting(lag: LoopLagMonitor) -> None:
    """A monitor may be used again, after it has ended but not while it runs."""
    async with lag:
        await beats(lag)
        with pytest.raises(RuntimeError, match="cannot run twice"):
            await lag.__aenter__()
    async with lag:
        await beats(lag)
    assert lag.num_beats >= 2


def test_summary_before_the_first_beat_is_zero(lag: LoopLagMonitor) -> None:
    """Nothing was measured, and asking is no error."""
    assert lag.summary() == (0.0, 0.0, 0.0, 0, 0)
    assert lag.summary().as_ms() == {"p50": 0.0, "p99": 0.0, "max": 0.0}


@pytest.mark.parametrize("arguments", [{"interval_s": 0.0004}, {"stall_s": 0.0}, {"max_stalls": 0}])
def test_number_that_is_too_small_is_an_error(arguments: dict[str, float]) -> None:
    """Shorter beats would spin on uvloop."""
    with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
        LoopLagMonitor(**arguments)  # type: ignore[arg-type]  # one of them at a time
