"""``RelayBuffer``: device rows that carry results of one step to the next."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from buffers.errors import (
    DtypeError,
    DuplicateSlotError,
    NoCurrentStreamError,
    ShapeError,
    SlotRangeError,
    UnknownFieldError,
)
from buffers.fields import FieldSpec
from buffers.host_mirror import HostValues
from buffers.relay import RelayBuffer
from buffers.slots import SlotAllocator
from streams.current import use_stream
from streams.device import Device
from streams.launch import Launch
from streams.stream import Stream
from tests.buffers.conftest import Cpu
from tests.buffers.watching import OrderRecorder, settled_behind
from tests.device_fixtures import Cells, CpuBench, HoldFactory

FIELDS: dict[str, FieldSpec | torch.dtype] = {
    "tokens": torch.int64,
    "hidden": FieldSpec(torch.float32, (2,)),
}


async def test_next_step_gathers_what_this_one_stashed(device: Device, cells: Cells) -> None:
    """Rows come back per field, in the order of the slots asked for."""
    stream, slots = device.stream("forward"), SlotAllocator(4)
    relay = RelayBuffer(device, 4, FIELDS)
    a, b, c = (slots.take(owner) for owner in "abc")
    hidden = stream.launch(lambda: cells(1, 2, 3, 4, 5, 6).float().reshape(3, 2))
    relay.stash([a, b, c], stream=stream, tokens=cells(7, 8, 9), hidden=hidden)
    rows = await relay.gather([c, a], stream=stream)
    assert rows["tokens"].tolist() == [9, 7]
    assert rows["hidden"].tolist() == [[5, 6], [1, 2]]
    rows = await relay.gather([b], "tokens", stream=stream)
    assert {field: values.tolist() for field, values in rows.items()} == {"tokens": [8]}


async def test_verbs_enqueue_on_the_stream_of_the_stage(device: Device, cells: Cells) -> None:
    """Inside a stage no stream needs to be named."""
    relay, stream = RelayBuffer(device, 1, FIELDS), device.stream("forward")
    values = cells(5)

    with use_stream(stream):
        relay.stash([1], tokens=values)
        launch = relay.gather([1], "tokens")
    assert launch.event.stream is stream
    assert (await launch)["tokens"].tolist() == [5]


def test_gather_on_other_stream_waits_for_publish(
    cpu: Cpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publish wait: while forward is held, no other stream reads its rows."""
    forward, schedule = cpu.device.stream("forward"), cpu.device.stream("schedule")
    relay = RelayBuffer(cpu.device, 2, FIELDS)
    settled = settled_behind(forward, monkeypatch)
    held = cpu.hold(forward)
    relay.publish([1], stream=forward, tokens=torch.tensor([7]))
    rows = relay.gather([1], stream=schedule)
    schedule.launch(settled.set)
    assert settled.wait(30)
    held.release()
    rows.event.synchronize()
    assert rows.result()["tokens"].tolist() == [7]


def test_stash_waits_for_gather_on_other_stream(cpu: Cpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """WAR: the next step's results do not overwrite rows that are still to be read."""
    forward, schedule = cpu.device.stream("forward"), cpu.device.stream("schedule")
    relay = RelayBuffer(cpu.device, 2, FIELDS)
    relay.stash([1], stream=forward, tokens=torch.tensor([7]))
    forward.synchronize()
    settled = settled_behind(schedule, monkeypatch)
    held = cpu.hold(schedule)
    rows = relay.gather([1], stream=schedule)
    relay.stash([1], stream=forward, tokens=torch.tensor([8]))
    forward.launch(settled.set)
    assert settled.wait(30)
    held.release()
    rows.event.synchronize()
    assert rows.result()["tokens"].tolist() == [7]


async def test_other_rows_and_fields_are_not_waited_for(
    device: Device, cells: Cells, hold: HoldFactory
) -> None:
    """A long forward delays nobody who uses other rows, or another field of its rows."""
    forward, schedule = device.stream("forward"), device.stream("schedule")
    relay = RelayBuffer(device, 2, FIELDS)
    sevens = cells(7, 7)
    relay.publish([1, 2], stream=schedule, tokens=sevens)
    held = hold(forward)
    relay.stash([1], stream=forward, tokens=sevens[:1])
    relay.stash([2], stream=forward, hidden=sevens.float().reshape(1, 2))
    assert (await relay.gather([2], "tokens", stream=schedule))["tokens"].tolist() == [7]
    assert not held.launch.query()
    held.release()


async def test_model_uses_rows_inside_its_own_launch(
    device: Device, cells: Cells, hold: HoldFactory
) -> None:
    """A forward gathers and stashes by a device index, padded, behind earlier steps."""
    schedule, forward = device.stream("schedule"), device.stream("forward")
    relay = RelayBuffer(device, 3, {"tokens": torch.int64})
    padded = cells(3, 1, 0, 0)
    values = cells(10, 30)
    held = hold(schedule)
    relay.stash([1, 3], stream=schedule, tokens=values)
    index = schedule.launch(lambda: padded)

    def decode(index: Tensor, step: int) -> Tensor:
        tokens = relay.gather_rows(index)["tokens"] + step
        relay.stash_rows(index, tokens=tokens)
        return tokens

    for step in (1, 2):
        uses = [relay.gathers([3, 1]), relay.publishes([3, 1], "tokens")]
        launch = relay.launch(decode, index, uses=uses, stream=forward, step=step)
    published = relay.published
    held.release()
    assert (await launch)[:2].tolist() == [33, 13]
    assert published is not None
    assert published.recorded_on() is forward
    rows = await relay.gather([3, 1], index=index, stream=schedule)
    assert rows["tokens"][:2].tolist() == [33, 13]


async def test_padding_row_disturbs_nobody(device: Device, cells: Cells) -> None:
    """Padded lanes all read and write row 0, and no slot sees it."""
    stream, relay = device.stream("forward"), RelayBuffer(device, 2, {"tokens": torch.int64})
    relay.stash([1, 2], stream=stream, tokens=cells(1, 2))
    relay.stash([0, 2, 0], stream=stream, tokens=cells(8, 5, 9))
    rows = await relay.gather([2, 0, 1, 0], stream=stream)
    assert rows["tokens"][[0, 2]].tolist() == [5, 1]


@pytest.mark.parametrize("slots", [(), (0, 0)])
async def test_write_without_slots_enqueues_nothing(
    device: Device, cells: Cells, slots: tuple[int, ...]
) -> None:
    """An idle step, all padding or no rows at all, costs the device nothing."""
    stream, relay = device.stream("forward"), RelayBuffer(device, 2, {"tokens": torch.int64})
    recorder = OrderRecorder()
    device.add_monitor(recorder)
    values = cells(*slots)
    assert relay.stash(slots, stream=stream, tokens=values) is None
    assert relay.publish(slots, stream=stream, tokens=values) is None
    assert relay.published is None
    assert recorder.launches == []
    rows = await relay.gather((), stream=stream)
    assert rows["tokens"].shape == (0,)


async def test_each_publish_has_an_event_of_its_own(
    device: Device, cells: Cells, hold: HoldFactory
) -> None:
    """A later publish does not move the event that somebody waits for."""
    stream, relay = device.stream("forward"), RelayBuffer(device, 2, {"tokens": torch.int64})
    first = relay.publish([1], stream=stream, tokens=cells(1))
    values = cells(2)
    held = hold(stream)
    second = relay.publish([1], stream=stream, tokens=values)
    assert first is not None
    assert second is not None
    assert relay.published is second
    await first
    assert not second.query()
    held.release()
    await second


async def test_gather_fails_with_the_launch_that_should_have_written(
    device: Device, cells: Cells
) -> None:
    """No stale rows behind a failed step; rows of other steps are not concerned."""
    forward, schedule = device.stream("forward"), device.stream("schedule")
    relay = RelayBuffer(device, 2, {"tokens": torch.int64})
    relay.stash([1, 2], stream=forward, tokens=cells(1, 2))

    def broken(index: Tensor) -> None:
        raise ValueError("no such expert")

    relay.launch(broken, cells(1), uses=[relay.stashes([1], "tokens")], stream=forward)
    with pytest.raises(ValueError, match="no such expert"):
        await relay.gather([1, 2], stream=schedule)
    assert (await relay.gather([2], stream=schedule))["tokens"].tolist() == [2]
    relay.stash([1], stream=forward, tokens=cells(3))
    assert (await relay.gather([1], stream=schedule))["tokens"].tolist() == [3]


async def test_rows_are_detached_and_writable_outside_inference_mode(device: Device) -> None:
    """Rows hold values: no autograd graph, no inference tensor, whoever made them."""
    stream = device.stream("forward")
    with torch.inference_mode():
        relay = RelayBuffer(device, 1, {"hidden": torch.float32})
    where = device.torch_device
    hidden = stream.launch(lambda: torch.ones(1, requires_grad=True, device=where) * 2)
    relay.stash([1], stream=stream, hidden=hidden)
    rows = await relay.gather([1], stream=stream)
    assert rows["hidden"].tolist() == [2]
    assert not rows["hidden"].requires_grad


async def test_launches_declare_what_they_access(device: Device, cells: Cells) -> None:
    """A checker is told buffer, field and rows, the padding row excepted."""
    stream, relay = device.stream("forward"), RelayBuffer(device, 5, FIELDS, name="lens")
    recorder = OrderRecorder()
    device.add_monitor(recorder)
    relay.stash([4, 0, 2], stream=stream, tokens=cells(1, 2, 3))
    await relay.gather([2, 0], stream=stream)
    stash, gather = recorder.launches
    assert (stash.label, gather.label) == ("lens.stash", "lens.gather")
    assert list(map(str, stash.reads)) == []
    assert list(map(str, stash.writes)) == ["lens.tokens[2, 4]"]
    assert list(map(str, gather.reads)) == ["lens.tokens[2]", "lens.hidden[2]"]
    assert list(map(str, gather.writes)) == []


def test_verb_without_stream_is_an_error(cpu: Cpu) -> None:
    """Outside a stage a stream must be named."""
    relay = RelayBuffer(cpu.device, 1, {"tokens": torch.int64})
    with pytest.raises(NoCurrentStreamError, match="inside prepare or forward, or pass stream="):
        relay.gather([1])


Call = Callable[[RelayBuffer, Tensor], object]
MISTAKES: dict[str, tuple[Call, type[Exception], str]] = {
    "range": (lambda r, t: r.gather([5]), SlotRangeError, "slot 5 .*slots are 1 to 4"),
    "negative": (lambda r, t: r.gather([-1]), SlotRangeError, "slot -1 .* out of range"),
    "duplicate": (lambda r, t: r.gather([2, 2]), DuplicateSlotError, "slot 2 is named twice"),
    "field": (lambda r, t: r.gather([1], "lens"), UnknownFieldError, "no field 'lens'.*tokens"),
    "payload field": (lambda r, t: r.stash([1], lens=t), UnknownFieldError, "it has tokens"),
    "no field": (lambda r, t: r.stash([1]), UnknownFieldError, "name at least one of tokens"),
    "dtype": (
        lambda r, t: r.stash([1], tokens=t.int()),
        DtypeError,
        r"relay.tokens has rows of torch.int64 and got torch.int32; .*\.to\(torch.int64\)",
    ),
    "rows": (
        lambda r, t: r.publish([1, 2], tokens=t),
        ShapeError,
        r"got shape \(1,\) for 2 rows of shape \(\); give \(2,\)",
    ),
    "row shape": (
        lambda r, t: r.stash([1], hidden=t.float()),
        ShapeError,
        r"got shape \(1,\) for 1 rows of shape \(2,\); give \(1, 2\)",
    ),
    "place": (lambda r, t: r.stash([1], tokens=t.to("meta")), ShapeError, "on meta; upload it"),
    "slots elsewhere": (lambda r, t: r.gather(t.to("meta")), DtypeError, "give them as host int"),
    "slots dtype": (lambda r, t: r.gather(torch.ones(1)), DtypeError, "torch.float32 and shape"),
    "slots shape": (lambda r, t: r.gather(torch.tensor(1)), DtypeError, r"shape \(\)"),
    "index dtype": (
        lambda r, t: r.gather([1], index=t.int()),
        DtypeError,
        r"index has dtype torch.int32; convert it with index.long\(\)",
    ),
    "index length": (
        lambda r, t: r.gather([1, 2], index=t),
        ShapeError,
        r"index has shape \(1,\); give one row number per slot, \(2,\) or longer",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_mistake_is_refused_before_anything_is_enqueued(
    device: Device, cells: Cells, mistake: str
) -> None:
    """Each mistake has its error, with value and remedy, and the relay lives on."""
    relay, stream = RelayBuffer(device, 4, FIELDS), device.stream("forward")
    recorder = OrderRecorder()
    call, error, message = MISTAKES[mistake]
    values = cells(6)
    relay.stash([1], stream=stream, tokens=values)
    device.add_monitor(recorder)
    with use_stream(stream), pytest.raises(error, match=message):
        call(relay, values)
    assert recorder.launches == []
    assert (await relay.gather([1], stream=stream))["tokens"].tolist() == [6]


async def test_wrong_row_of_a_launch_is_reported_when_awaited(device: Device, cells: Cells) -> None:
    """The shape of a value that is still being computed is checked when it is there."""
    relay, stream = RelayBuffer(device, 4, FIELDS), device.stream("forward")
    source = cells(1, 2)
    launch = relay.stash([1], stream=stream, tokens=stream.launch(lambda: source))
    assert launch is not None
    with pytest.raises(ShapeError, match=r"got shape \(2,\) for 1 rows"):
        await launch


def test_slots_may_be_a_host_tensor(cpu: Cpu) -> None:
    """Row numbers in host memory are read at once."""
    relay, stream = RelayBuffer(cpu.device, 2, {"tokens": torch.int64}), cpu.device.stream("s")
    relay.stash(torch.tensor([2, 1]), stream=stream, tokens=torch.tensor([2, 1]))
    rows = relay.gather(torch.tensor([1, 2], dtype=torch.int32), stream=stream)
    rows.event.synchronize()
    assert rows.result()["tokens"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("slots", "fields", "error", "message"),
    [
        (0, {"tokens": torch.int64}, ValueError, "has 0 slots"),
        (1, {}, ValueError, r"fields \[\]"),
        (1, {"tokens": torch.uint16}, DtypeError, "cannot have dtype torch.uint16.*int64"),
        (1, {"tokens": "int64"}, DtypeError, r"'int64'; use a torch dtype or FieldSpec"),
    ],
)
def test_bad_schema_is_refused(
    cpu: Cpu,
    slots: int,
    fields: dict[str, torch.dtype],
    error: type[Exception],
    message: str,
) -> None:
    """A relay that could hold nothing is not made."""
    with pytest.raises(error, match=message):
        RelayBuffer(cpu.device, slots, fields)


def test_row_without_elements_is_refused() -> None:
    """A row shape with a zero in it holds nothing."""
    with pytest.raises(ShapeError, match=r"row shape \(2, 0\) has a size below 1"):
        FieldSpec(torch.int64, (2, 0))


def test_repr_names_fields_and_device(cpu: Cpu) -> None:
    """What a debugger shows is the schema."""
    relay = RelayBuffer(cpu.device, 3, FIELDS, strict=True)
    assert repr(relay) == "<RelayBuffer 'relay' on cpu: 3 slots of tokens, hidden, strict>"


VERBS = st.sampled_from(["stash", "publish", "gather", "pull"])
ROWS = st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True)
PROGRAMS = st.lists(st.tuples(VERBS, st.integers(0, 2), ROWS), max_size=14)


@settings(max_examples=60, deadline=None)
@given(program=PROGRAMS)
async def test_any_program_is_ordered_and_reads_the_last_write(
    program: list[tuple[str, int, list[int]]],
) -> None:
    """On any streams, conflicting uses are ordered, and reads see what program order says."""
    recorder = OrderRecorder()
    with CpuBench().open() as device:
        device.add_monitor(recorder)
        streams = [device.stream(name) for name in "abc"]
        relay = RelayBuffer(device, 4, {"tokens": torch.int64})
        for values, expected in run_program(relay, streams, program):
            rows = await values
            assert rows is not None
            assert rows["tokens"].tolist() == expected
        assert recorder.races() == []


Read = tuple[Launch[dict[str, Tensor]] | HostValues, list[int]]


def run_program(
    relay: RelayBuffer, streams: list[Stream], program: list[tuple[str, int, list[int]]]
) -> list[Read]:
    """Enqueue a program; return each read, and what it must give."""
    rows = [0] * (relay.num_slots + 1)
    reads: list[Read] = []
    for number, (verb, on, slots) in enumerate(program):
        if verb in ("gather", "pull"):
            expected = [rows[slot] for slot in slots]
            pulled = verb == "pull"
            values = relay.mirror.pull(slots) if pulled else relay.gather(slots, stream=streams[on])
            reads.append((values, expected))
            continue
        written = [100 * number + slot for slot in slots]
        write = relay.stash if verb == "stash" else relay.publish
        write(slots, stream=streams[on], tokens=torch.tensor(written))
        for slot, value in zip(slots, written, strict=True):
            rows[slot] = value
    return reads
