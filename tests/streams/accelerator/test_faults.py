"""Which errors are the device's, and which a launch's own."""

import threading
from collections.abc import Callable

import pytest

from streams.accelerator import AcceleratorDevice
from streams.errors import DeviceClosedError, DeviceLostError
from tests.streams.accelerator.tools import stream_of
from tests.streams.conformance.work import nothing
from tests.streams.fake_torch import FakeTorch


def test_query_that_raises_loses_the_device(fake: FakeTorch, device: AcceleratorDevice) -> None:
    """A fault that shows in a query is latched, and told to everybody."""
    stream, other = stream_of(device, "s"), stream_of(device, "other")
    event, elsewhere = stream.launch(nothing).event, other.launch(nothing).event
    fake.fault = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        event.query()
    fake.fault = None
    with pytest.raises(DeviceLostError):
        elsewhere.query()
    assert isinstance(device.lost, RuntimeError)


def test_synchronize_that_raises_loses_the_device(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """So is one that shows at a blocking waiter."""
    stream = stream_of(device, "s")
    number = stream.launch(nothing).event.number
    fake.fault = RuntimeError("HIP error: unspecified launch failure")
    with pytest.raises(DeviceLostError, match="unspecified launch failure"):
        stream.block_until(number)
    assert device.lost is fake.fault


@pytest.mark.parametrize("shows_in", [None, "record", "query"])
def test_driver_error_from_a_function_is_judged_by_what_follows(
    fake: FakeTorch, device: AcceleratorDevice, shows_in: str | None
) -> None:
    """An error that later calls repeat is the device's; any other is the launch's own."""
    stream = stream_of(device, "s")
    error = RuntimeError("CUDA error: invalid configuration argument")

    def fail() -> None:
        if shows_in is not None:
            fake.fault = RuntimeError("CUDA error: device-side assert triggered")
            fake.faulty_verb = shows_in
        raise error

    launch = stream.launch(fail)
    if shows_in is not None:
        with pytest.raises(DeviceLostError, match="invalid configuration"):
            launch.result()
        assert device.lost is error
    else:
        with pytest.raises(RuntimeError, match="invalid configuration"):
            launch.result()
        assert stream.launch(nothing).query()


def test_fault_while_issuing_does_not_raise_from_launch(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """``launch`` returns; whoever waits is told."""
    stream = stream_of(device, "s")
    fake.fault = RuntimeError("CUDA error: unspecified launch failure")
    launch = stream.launch(nothing)
    with pytest.raises(DeviceLostError):
        launch.query()
    with pytest.raises(DeviceLostError):
        stream.launch(nothing)


def test_lost_device_closes_without_native_calls(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """There is nothing to wait for on a lost device."""
    stream = stream_of(device, "s")
    stream.launch(fake.hold)
    device.lose(RuntimeError("gone"))
    fake.log.clear()
    device.close()
    assert fake.log == []


def test_fault_at_close_is_latched(fake: FakeTorch, device: AcceleratorDevice) -> None:
    """A fault that shows only when closing is the device's, and closing still ends."""
    stream = stream_of(device, "s")
    launch = stream.launch(nothing)
    fake.fault = RuntimeError("CUDA error: an illegal memory access was encountered")
    device.close()
    assert device.lost is fake.fault
    with pytest.raises(DeviceLostError):
        launch.query()


def test_interrupt_in_a_function_reaches_the_caller(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """A keyboard interrupt ends the program as usual, and the stream stays consistent."""
    stream = stream_of(device, "s")

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream.launch(interrupted)
    dependent = stream.launch(nothing)
    assert dependent.query()
    assert stream.completed == 2


def test_disowned_device_is_unusable_and_left_alone(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """In a forked child no native call is made, not even if the lock was held at the fork."""
    stream = stream_of(device, "s")
    launch = stream.launch(nothing)
    locked, done = threading.Event(), threading.Event()

    def hold_lock(lock: threading.Condition) -> None:
        with lock:
            locked.set()
            done.wait()

    thread = threading.Thread(target=hold_lock, args=(device.changed,))
    thread.start()
    locked.wait()
    device.disown()
    fake.log.clear()
    uses: list[Callable[[], object]] = [
        lambda: stream.launch(nothing),
        launch.query,
        lambda: stream.block_until(launch.event.number),
        lambda: device.stream("another"),
    ]
    for use in uses:
        with pytest.raises(DeviceClosedError):
            use()
    device.close()
    done.set()
    thread.join()
    assert fake.log == []
    device.native.give_back(stream.native)  # this is no child: other tests need the handle
