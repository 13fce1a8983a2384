"""``HostMirror``: the host's copy of relay rows, over a device stream of its own."""

import asyncio
from dataclasses import replace

import pytest
import torch

from buffers.errors import NoCurrentStreamError, RowNotWrittenError, UnknownFieldError
from buffers.host_mirror import HostMirror
from buffers.relay import RelayBuffer
from buffers.slots import Slot
from streams.current import use_stream
from streams.device import Device
from streams.errors import DeadlineError
from tests.buffers.conftest import Cpu
from tests.buffers.watching import OrderRecorder, settled_behind
from tests.device_fixtures import Cells, HoldFactory

LENS = {"lens": torch.int64}
#: A pull that waits for more than it should would hang; none that is right comes near this.
SOON_S = 10.0


async def test_resolve_ends_at_publish_not_at_the_end_of_forward(
    device: Device, cells: Cells, hold: HoldFactory
) -> None:
    """Schedule and forward streams are busy behind the publish, and the host has its values."""
    forward, schedule = device.stream("forward"), device.stream("schedule")
    relay = RelayBuffer(device, 2, LENS)
    lens = cells(7, 8)
    assert relay.mirror.stream is not None
    relay.publish([1, 2], stream=forward, lens=lens)
    holds = [hold(forward), hold(schedule)]
    schedule.wait_stream(forward)  # a WAR barrier, which a copy on this stream would inherit
    async with asyncio.timeout(SOON_S):
        values = await relay.resolve([2, 1])
    assert values is not None
    assert values["lens"].tolist() == [8, 7]
    assert not any(held.launch.query() for held in holds)
    for held in holds:
        held.release()


def test_pull_waits_for_publish(cpu: Cpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The publish wait: the private stream reads nothing before the event."""
    forward, relay = cpu.device.stream("forward"), RelayBuffer(cpu.device, 1, LENS)
    private = relay.mirror.stream
    assert private is not None
    relay.publish([1], stream=forward, lens=torch.tensor([1]))
    forward.synchronize()
    settled = settled_behind(forward, monkeypatch)
    held = cpu.hold(forward)
    relay.publish([1], stream=forward, lens=torch.tensor([2]))
    values = relay.mirror.pull([1])
    private.launch(settled.set)
    assert settled.wait(SOON_S)
    held.release()
    private.synchronize()
    assert asyncio.run(values.wait()) is not None
    assert asyncio.run(values.wait())["lens"].tolist() == [2]  # type: ignore[index]  # not None


async def test_pull_is_gated_on_publish_only(
    device: Device, cells: Cells, hold: HoldFactory
) -> None:
    """In what was enqueued, the pull comes after the publish and after nothing else."""
    forward, schedule = device.stream("forward"), device.stream("schedule")
    relay, recorder = RelayBuffer(device, 2, LENS), OrderRecorder()
    device.add_monitor(recorder)
    published = relay.publish([1], stream=forward, lens=cells(1))
    assert published is not None
    forward.launch(lambda: None)
    relay.publish([2], stream=schedule, lens=cells(2))
    await relay.mirror.pull([1])
    assert recorder.launches[-1].after == {forward: published.number}


async def test_two_pulls_in_flight_do_not_share_memory(
    device: Device, cells: Cells, hold: HoldFactory
) -> None:
    """Step n's values survive the pull of step n+1, whichever is awaited first."""
    forward, relay = device.stream("forward"), RelayBuffer(device, 1, LENS)
    steps = cells(1), cells(2)
    held = hold(forward)
    pulls = []
    for lens in steps:
        relay.publish([1], stream=forward, lens=lens)
        pulls.append(relay.mirror.pull([1]))
    held.release()
    second = await pulls[1]
    first = await pulls[0]
    assert first is not None
    assert second is not None
    assert (first["lens"].tolist(), second["lens"].tolist()) == ([1], [2])


async def test_publish_waits_for_pull_of_the_rows(
    cpu: Cpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WAR: a later step does not overwrite rows that the private stream still reads."""
    forward, relay = cpu.device.stream("forward"), RelayBuffer(cpu.device, 1, LENS)
    private = relay.mirror.stream
    assert private is not None
    relay.publish([1], stream=forward, lens=torch.tensor([1]))
    await forward.drained()
    settled = settled_behind(private, monkeypatch)
    held = cpu.hold(private)
    values = relay.mirror.pull([1])
    relay.publish([1], stream=forward, lens=torch.tensor([2]))
    forward.launch(settled.set)
    assert settled.wait(SOON_S)
    held.release()
    rows = await values
    assert rows is not None
    assert rows["lens"].tolist() == [1]


async def test_values_belong_to_the_caller(device: Device, cells: Cells) -> None:
    """Each awaiter has a copy: neither device, nor pool, nor the other awaiter can change it."""
    forward, relay = device.stream("forward"), RelayBuffer(device, 1, LENS)
    relay.publish([1], stream=forward, lens=cells(1))
    values = relay.mirror.pull([1])
    first, second = await values, await values
    assert first is not None
    assert second is not None
    first["lens"].fill_(9)
    relay.publish([1], stream=forward, lens=cells(2))
    await relay.resolve([1])
    assert second["lens"].tolist() == [1]
    assert not second["lens"].is_pinned()


async def test_bootstrap_copies_on_the_current_stream(device: Device, cells: Cells) -> None:
    """With nothing published there is no event to wait for, so the stage's order counts."""
    schedule, relay = device.stream("schedule"), RelayBuffer(device, 2, LENS)
    recorder = OrderRecorder()
    device.add_monitor(recorder)
    with use_stream(schedule):
        values = relay.mirror.pull([1, 0])
    rows = await values
    assert rows is not None
    assert rows["lens"].tolist() == [0, 0]
    assert {seen.stream for seen in recorder.launches} == {schedule}
    assert await relay.resolve([1]) is not None  # no stage, no stream: the private one


async def test_device_without_private_stream_takes_plain_copies(cpu: Cpu) -> None:
    """Where copies cannot have a stream of their own, the values come all the same."""
    cpu.device.capabilities = replace(cpu.device.capabilities, private_d2h=False)
    schedule, relay = cpu.device.stream("schedule"), RelayBuffer(cpu.device, 2, LENS)
    relay.publish([1], stream=schedule, lens=torch.tensor([5]))
    assert relay.mirror.stream is None
    rows = await relay.mirror.pull([1], stream=schedule)
    assert rows is not None
    assert rows["lens"].tolist() == [5]
    with pytest.raises(NoCurrentStreamError):
        relay.mirror.pull([1])
    assert repr(relay.mirror) == "<HostMirror of 'relay' by plain copies>"
    relay.close()


async def test_pipeline_without_host_values_gets_none(device: Device, cells: Cells) -> None:
    """Opted out: nothing is enqueued, no stream is opened, every result is None."""
    forward, relay = device.stream("forward"), RelayBuffer(device, 1, LENS, needs_host_values=False)
    relay.publish([1], stream=forward, lens=cells(1))
    recorder = OrderRecorder()
    device.add_monitor(recorder)
    assert await relay.resolve([1]) is None
    assert await relay.mirror.pull([1]) is None
    assert recorder.launches == []
    assert device.streams == (forward,)
    assert repr(relay.mirror) == "<HostMirror of 'relay' unused>"


async def test_failed_forward_gives_its_error_instead_of_old_values(
    device: Device, cells: Cells
) -> None:
    """A publish that did not happen is not mistaken for the one before."""
    forward, relay = device.stream("forward"), RelayBuffer(device, 1, LENS)
    relay.publish([1], stream=forward, lens=cells(1))

    def broken() -> None:
        raise ValueError("no such expert")

    relay.launch(broken, uses=[relay.publishes([1], "lens")], stream=forward)
    with pytest.raises(ValueError, match="no such expert"):
        await relay.resolve([1])


async def test_strict_pull_peeks_at_rows_that_are_there(device: Device, cells: Cells) -> None:
    """The host reads beside the device, and nothing that was consumed."""
    forward, relay = device.stream("forward"), RelayBuffer(device, 1, LENS, strict=True)
    slot = Slot(1, 1, "a")
    relay.publish([slot], stream=forward, lens=cells(1))
    for _ in range(2):
        rows = await relay.resolve([slot])
        assert rows is not None
        assert rows["lens"].tolist() == [1]
    await relay.gather([slot], stream=forward)
    with pytest.raises(RowNotWrittenError, match="was consumed"):
        relay.mirror.pull([slot])


async def test_mirror_of_some_fields_leaves_the_others(device: Device, cells: Cells) -> None:
    """A mirror may pull the lengths and leave wide rows on the device."""
    fields = {"lens": torch.int64, "tokens": torch.int64}
    forward, relay = device.stream("forward"), RelayBuffer(device, 1, fields)
    mirror = HostMirror(relay, ["lens"])
    relay.publish([1], stream=forward, lens=cells(3), tokens=cells(4))
    rows = await mirror.resolve([1])
    assert rows is not None
    assert list(rows) == ["lens"]
    with pytest.raises(UnknownFieldError, match="no field 'length'"):
        HostMirror(relay, ["length"])


async def test_cancelled_resolve_leaves_the_pull_to_run_out(
    device: Device, cells: Cells, hold: HoldFactory
) -> None:
    """Cancelling who waits cancels no device work, and the next resolve is right."""
    forward, relay = device.stream("forward"), RelayBuffer(device, 1, LENS)
    lens = cells(4)
    held = hold(forward)
    relay.publish([1], stream=forward, lens=lens)
    resolving = asyncio.create_task(relay.resolve([1]))
    await asyncio.sleep(0)
    resolving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await resolving
    held.release()
    rows = await relay.resolve([1])
    assert rows is not None
    assert rows["lens"].tolist() == [4]


async def test_values_that_do_not_come_in_time_name_the_pull(
    device: Device, cells: Cells, hold: HoldFactory
) -> None:
    """The deadline of a pull says what was waited for."""
    forward, relay = device.stream("forward"), RelayBuffer(device, 1, LENS, name="lens")
    lens = cells(4)
    held = hold(forward)
    relay.publish([1], stream=forward, lens=lens)
    values = relay.mirror.pull([1])
    with pytest.raises(DeadlineError, match=r"lens\.pull_rows"):
        await values.wait(0.0)
    assert "lens.pull_rows" in repr(values)
    held.release()
    assert await values is not None


async def test_closed_relay_gives_its_stream_back(device: Device, cells: Cells) -> None:
    """The private stream's name is free again for the next relay."""
    forward = device.stream("forward")
    for _ in range(2):
        relay = RelayBuffer(device, 1, LENS)
        relay.close()  # not opened yet
        relay.publish([1], stream=forward, lens=cells(1))
        await relay.resolve([1])
        assert repr(relay.mirror) == "<HostMirror of 'relay' over 'relay.d2h'>"
        relay.close()
        assert device.streams == (forward,)
