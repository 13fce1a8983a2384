"""Telling torch's sanitizer of true queries, on the accelerator device over a fake torch.

The fake traces records and native waits as torch does on CUDA, and launches hand over their
kernel when they are issued; so what reaches torch's analysis, and when, is as on a GPU.
"""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch.cuda._gpu_trace as gpu_trace
from torch.cuda._sanitizer import EventHandler

from benchmarks.sanitizer_trace import Polling, register, registries_restored
from streams.accelerator import AcceleratorDevice
from tests.streams.accelerator.tools import handle_of, opened, stream_of
from tests.streams.fake_torch import FakeEvent, FakeStream, FakeTorch

TABLE = 100


class Traced:
    """A fake accelerator that torch's analysis watches.

    Attributes:
        num_found: unordered accesses so far.
    """

    def __init__(self, fake: FakeTorch, device: AcceleratorDevice) -> None:
        self.fake = fake
        self.device = device
        self.writer, self.reader = stream_of(device, "writer"), stream_of(device, "reader")
        self.num_found = 0
        self._handler = EventHandler()
        register(self._handler)

    def write(self) -> None:
        """Be the function of a launch that writes the table."""
        self._kernel(set(), {TABLE})

    def read(self) -> None:
        """Be the function of a launch that reads it."""
        self._kernel({TABLE}, set())

    def teach(self) -> None:
        """Tell of true queries from now on."""
        self.device.add_monitor(Polling(_handle, at_issue=True))

    def _kernel(self, reads: set[int], writes: set[int]) -> None:
        stream = self.fake.current().cuda_stream
        found = self._handler._handle_kernel_launch(
            stream, reads, writes, set(), "kernel", {TABLE: []}
        )
        self.num_found += len(found)


_handle: Callable[..., int] = handle_of


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    """The fake, with its records and waits traced."""
    record, wait = FakeEvent.record, FakeStream.wait_event

    def traced_record(self: FakeEvent, stream: FakeStream) -> None:
        record(self, stream)
        gpu_trace.EventRecordCallbacks.fire_callbacks(id(self), stream.cuda_stream)

    def traced_wait(self: FakeStream, event: FakeEvent) -> None:
        wait(self, event)
        gpu_trace.EventWaitCallbacks.fire_callbacks(id(event), self.cuda_stream)

    monkeypatch.setattr(FakeEvent, "record", traced_record)
    monkeypatch.setattr(FakeStream, "wait_event", traced_wait)
    fake = FakeTorch()
    fake.install(monkeypatch)
    with registries_restored(), opened(fake) as device:
        yield Traced(fake, device)


def no_wait(traced: Traced) -> None:
    """Nothing orders the two."""
    traced.writer.launch(traced.write)
    traced.reader.launch(traced.read)


def query(traced: Traced) -> None:
    """The host asks, and gets a yes."""
    written = traced.writer.launch(traced.write)
    assert written.query()
    traced.reader.launch(traced.read)


def wait_for_the_past(traced: Traced) -> None:
    """A poller has seen the end; the wait that is asked for then is not made natively."""
    written = traced.writer.launch(traced.write)
    traced.writer.advance(written.event.number)
    traced.reader.wait_event(written.event)
    traced.reader.launch(traced.read)


def complete_before_issue(traced: Traced) -> None:
    """A poller sees the end between the wait and the launch behind it."""
    hold = traced.writer.launch(traced.fake.hold)
    written = traced.writer.launch(traced.write)
    traced.reader.wait_event(written.event)
    hold.issued_value().set()
    traced.writer.advance(written.event.number)
    traced.reader.launch(traced.read)


def native_wait(traced: Traced) -> None:
    """The wait is made natively, and torch traces it."""
    traced.writer.launch(traced.fake.hold)
    written = traced.writer.launch(traced.write)
    traced.reader.wait_event(written.event)
    traced.reader.launch(traced.read)


def query_of_what_came_before(traced: Traced) -> None:
    """The yes is about another launch than the one that matters."""
    before = traced.writer.launch(int)
    traced.writer.launch(traced.fake.hold)
    traced.writer.launch(traced.write)
    assert before.query()
    traced.reader.wait_event(before.event)
    traced.reader.launch(traced.read)


@pytest.mark.parametrize(
    ("program", "untaught", "taught"),
    [
        (no_wait, 1, 1),
        (query, 1, 0),
        (wait_for_the_past, 1, 0),
        (complete_before_issue, 1, 0),
        (native_wait, 0, 0),
        (query_of_what_came_before, 1, 1),
    ],
)
@pytest.mark.parametrize("is_taught", [False, True])
def test_true_queries_order_and_nothing_else_does(
    program: Callable[[Traced], None],
    untaught: int,
    taught: int,
    is_taught: bool,
    traced: Traced,
) -> None:
    """False reports vanish once torch is told, and true ones stay."""
    if is_taught:
        traced.teach()
    program(traced)
    assert traced.num_found == (taught if is_taught else untaught)


async def test_event_that_was_recorded_anew_does_not_order_too_much(traced: Traced) -> None:
    """A native event that serves another record by now is not the one that was asked about."""
    traced.teach()
    ask = partial(traced.writer.launch, int)
    first = ask()
    await first
    for _ in range(3):
        await ask()  # takes spare native events, the first one's among them
    traced.writer.launch(traced.fake.hold)
    traced.writer.launch(traced.write)
    await first
    traced.reader.launch(traced.read)
    assert traced.num_found == 1
