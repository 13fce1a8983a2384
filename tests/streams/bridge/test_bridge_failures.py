"""Devices that are lost or closed, drivers that raise, captures that forbid questions."""

import asyncio

import pytest

from streams.bridge import PollingBridge
from streams.errors import DeviceClosedError, DeviceLostError
from streams.event import Event
from tests.streams.polled_device import PolledDevice, PolledStream, settled, until

POLICIES = ["auto", "thread", "spin"]


@pytest.fixture(params=POLICIES)
async def bridge(request: pytest.FixtureRequest) -> PollingBridge:
    """A bridge under each way to wait; entered by the test."""
    return PollingBridge(request.param)


async def _started(*waits: "asyncio.Future[None]") -> None:
    await asyncio.sleep(0)
    assert not any(wait.done() for wait in waits)


def _waits(*events: Event) -> list["asyncio.Future[None]"]:
    return [asyncio.ensure_future(event.wait()) for event in events]


@pytest.mark.parametrize("kind", ["polled", "calling"])
async def test_lost_device_fails_each_of_its_waiters_once(bridge: PollingBridge, kind: str) -> None:
    """Every waiter of every stream of the device gets an error of its own; others live on."""
    async with bridge:
        with PolledDevice("lost") as lost, PolledDevice("well") as well:
            streams: list[PolledStream] = [getattr(lost, kind)(name) for name in ("a", "b")]
            other = well.polled()
            survivor = other.enqueue()
            events = [stream.enqueue() for stream in streams for _ in range(2)]
            waits, living = _waits(*events, events[0]), _waits(survivor)
            await _started(*waits, *living)
            lost.lose(ValueError("fault"))
            for stream in streams:
                stream.fail_blocked(lost.lost_error())
            outcomes = await settled(*waits)
            assert [type(outcome) for outcome in outcomes] == [DeviceLostError] * 5
            assert len({id(outcome) for outcome in outcomes}) == 5
            assert all("fault" in str(outcome) for outcome in outcomes)
            assert not living[0].done()
            other.finish(survivor)
            await living[0]
    assert bridge.stats.num_waiters == 0


async def test_lost_device_still_resolves_what_it_had_done(bridge: PollingBridge) -> None:
    """Completions that came before the fault count."""
    async with bridge:
        with PolledDevice() as device:
            stream, healthy = device.polled("a"), device.polled("b")
            done, undone = healthy.enqueue(), healthy.enqueue()
            first, *others = _waits(stream.enqueue(), done, undone)
            await _started(first, *others)
            healthy.finish(done)
            healthy.completed = done.number
            device.lose(ValueError("fault"))
            stream.fail_blocked(device.lost_error())
            outcomes = await settled(first, *others)
    assert [type(outcome) for outcome in outcomes] == [
        DeviceLostError,
        type(None),
        DeviceLostError,
    ]


@pytest.mark.parametrize("kind", ["polled", "calling"])
async def test_closed_device_fails_its_waiters(bridge: PollingBridge, kind: str) -> None:
    """Whoever waits for what will never be done is told so."""
    async with bridge:
        with PolledDevice() as device:
            stream: PolledStream = getattr(device, kind)()
            waits = _waits(stream.enqueue(), stream.enqueue())
            await _started(*waits)
            device.close()
            outcomes = await settled(*waits)
    assert [type(outcome) for outcome in outcomes] == [DeviceClosedError] * 2
    assert outcomes[0] is not outcomes[1]


@pytest.mark.parametrize("error", [KeyError("driver"), StopIteration("odd"), OSError(5, "io")])
async def test_query_that_raises_fails_the_waiters_of_its_stream_only(
    bridge: PollingBridge, error: Exception
) -> None:
    """A driver may raise anything; the loop and the other streams go on."""
    async with bridge:
        with PolledDevice() as device:
            broken, well = device.polled("broken"), device.polled("well")
            event = well.enqueue()
            waits, living = _waits(broken.enqueue(), broken.enqueue()), _waits(event)
            await _started(*waits, *living)
            broken.query_error = error
            broken.fail_blocked(error)
            outcomes = await settled(*waits)
            assert all(error in (outcome, _cause(outcome)) for outcome in outcomes)
            assert not living[0].done()
            well.finish(event)
            await living[0]
    assert bridge.stats.num_waiters == 0


def _cause(error: object) -> object:
    return error.__cause__ if isinstance(error, BaseException) else None


async def test_query_that_raises_behind_a_completion_spares_who_is_done(
    bridge: PollingBridge,
) -> None:
    """One event is done, the look at the next one fails: each waiter gets its due."""
    async with bridge:
        with PolledDevice() as device:
            stream = device.polled()
            done, broken = stream.enqueue(), stream.enqueue()
            waits = _waits(done, broken)
            await _started(*waits)
            stream.query_error = KeyError("driver")
            stream.finish(done)
            stream.fail_blocked(KeyError("driver"))
            outcomes = await settled(*waits)
    assert [type(outcome) for outcome in outcomes] == [type(None), KeyError]


async def test_query_that_raises_at_the_first_look_reaches_the_one_who_waits() -> None:
    """Not even the admission of a waiter breaks the loop."""
    async with PollingBridge() as bridge:
        with PolledDevice() as device:
            stream = device.polled()
            event = stream.enqueue()
            stream.query_error = RuntimeError("driver")
            with pytest.raises(RuntimeError, match="driver"):
                await bridge.wait(event)
            assert bridge.stats.num_waiters == 0


async def test_stream_recovers_from_a_query_that_raised(bridge: PollingBridge) -> None:
    """The failure was of that wait; the next one begins anew."""
    async with bridge:
        with PolledDevice() as device:
            stream = device.polled()
            event = stream.enqueue()
            (wait,) = _waits(event)
            await _started(wait)
            stream.query_error = KeyError("once")
            stream.fail_blocked(KeyError("once"))
            await settled(wait)
            stream.query_error = stream.block_error = None
            (wait,) = _waits(event)
            await _started(wait)
            stream.finish(event)
            await wait


async def test_pace_that_raises_fails_the_waiters_of_its_stream() -> None:
    """A broken policy of the user is told to whoever waits, instead of a wait without end."""

    class Broken:
        name = "broken"

        def pace(self, stream: object) -> "Broken":
            return self

        def begin(self, now_ns: int) -> None:
            """Fine so far."""

        def found(self, now_ns: int, num_done: int) -> None:
            """Never called."""

        def next_look_ns(self, now_ns: int) -> int | None:
            raise ZeroDivisionError("pace")

    async with PollingBridge(Broken()) as bridge:
        with PolledDevice() as device, pytest.raises(ZeroDivisionError, match="pace"):
            await device.polled().enqueue()
        assert bridge.stats.num_waiters == 0


async def test_failed_waiter_that_is_cancelled_at_once_leaves_no_complaint() -> None:
    """An error that nobody will see any more is not reported as forgotten."""
    async with PollingBridge():
        with PolledDevice() as device:
            stream = device.calling()
            (wait,) = _waits(stream.enqueue())
            await _started(wait)
            device.lose(ValueError("fault"))
            asyncio.get_running_loop().call_soon(wait.cancel)
            (outcome,) = await settled(wait)
    # The loop's exception handler, which the fixtures watch, has heard nothing.
    assert isinstance(outcome, asyncio.CancelledError)


@pytest.mark.parametrize("kind", ["polled", "calling"])
async def test_open_capture_is_never_disturbed(bridge: PollingBridge, kind: str) -> None:
    """Nobody is asked while a graph capture is open, and nobody is forgotten after it."""
    async with bridge:
        with PolledDevice() as device, PolledDevice("other") as other_device:
            stream: PolledStream = getattr(device, kind)()
            before, during = stream.enqueue(), stream.enqueue()
            other = other_device.polled()
            (waiting,) = _waits(before)
            await _started(waiting)
            with device.capture():
                stream.asked_while_capturing.clear()
                late = asyncio.ensure_future(bridge.wait(during))
                # Another device goes on meanwhile, and gives the timers time to fire.
                for _ in range(5):
                    event = other.enqueue()
                    (wait,) = _waits(event)
                    await asyncio.sleep(0.001)
                    other.finish(event)
                    await wait
                assert stream.asked_while_capturing == []
                assert not late.done()
            stream.finish(during)
            await waiting
            await late


async def test_completion_that_is_known_is_delivered_during_a_capture() -> None:
    """What the stream itself said needs no question."""
    async with PollingBridge():
        with PolledDevice() as device:
            stream = device.calling()
            event = stream.enqueue()
            (wait,) = _waits(event)
            await _started(wait)
            with device.capture():
                stream.finish(event)
                await wait
                assert stream.asked_while_capturing == []


async def test_loss_during_a_capture_is_told_after_it() -> None:
    """A stream that calls back because its device is lost is asked once the capture is over."""
    async with PollingBridge() as bridge:
        with PolledDevice() as device:
            stream = device.calling()
            (wait,) = _waits(stream.enqueue())
            await _started(wait)
            with device.capture():
                device.lose(ValueError("fault"))
                await until(lambda: bridge.stats.polls > 0)
                assert not wait.done()
            with pytest.raises(DeviceLostError):
                await wait


@pytest.mark.parametrize("is_behind", [False, True])
def test_interrupt_inside_a_query_loses_no_waiter(is_behind: bool) -> None:
    """Ctrl-C in the middle of a look ends the loop's run, not the bridge's work."""
    device = PolledDevice()
    stream, other = device.polled("a"), device.polled("b")
    first, second, third = stream.enqueue(), stream.enqueue(), other.enqueue()
    with asyncio.Runner() as runner:

        async def start() -> list["asyncio.Future[None]"]:
            await PollingBridge("spin").__aenter__()
            waits = _waits(first, second, third)
            await asyncio.sleep(0)
            return waits

        async def interrupted() -> None:
            if is_behind:  # the interrupt comes when the next event is looked at
                stream.finish(first)
            stream.query_error = KeyboardInterrupt()
            await asyncio.Event().wait()

        async def finish(waits: list["asyncio.Future[None]"]) -> None:
            stream.finish(second)
            other.finish(third)
            await asyncio.gather(*waits)

        waits = runner.run(start())
        with pytest.raises(KeyboardInterrupt):
            runner.run(interrupted())
        stream.query_error = None
        runner.run(finish(waits))
