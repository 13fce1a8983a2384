"""Litmus cases for every device: what a launch reads, and when others see what it writes."""

import torch
from torch import Tensor

from benchmarks.litmus_lab import Case, Finding, Lab, holds_if
from streams.stream import Stream
from tests.streams.conformance.work import copy_of, fill

__all__ = ["CASES"]

_MIDDLE_S = 0.02  # how long a real launch is between its two reads


def write_lands_in_the_middle(lab: Lab) -> Finding:
    """Overwrite a table under a launch that reads it early and late: WAR without its fence."""
    seen = _overwritten(lab, is_fenced=False)
    return holds_if((1, 2) in seen, f"no fence: read {_counts(seen)}; 1 is old, 2 is new")


def fence_keeps_the_write_out(lab: Lab) -> Finding:
    """The same with the fence: only the old content."""
    seen = _overwritten(lab, is_fenced=True)
    return holds_if(set(seen) == {(1, 1)}, f"with the fence: read {_counts(seen)}")


def late_reader_sees_the_overwrite(lab: Lab) -> Finding:
    """Hold the reader back until the writer is done, with the fence and without."""
    with_fence, without = _overtaken(lab, True), _overtaken(lab, False)
    return holds_if(
        (with_fence, without) == ([1], [2]),
        f"the held reader read {with_fence} with the fence, {without} without; 1 is old, 2 is new",
    )


def early_host_read_is_old(lab: Lab) -> Finding:
    """Read the target of a copy before and after its event."""
    copy, source = lab.stream("copy"), lab.cells(7)
    host = torch.full((1,), -1, dtype=torch.int64)
    if lab.device.capabilities.pinned_memory:
        host = host.pin_memory()
    held = lab.hold(copy)
    copied = copy.launch(lambda: host.copy_(source, non_blocking=True), reads=[source])
    early = host.tolist()
    held.release()
    lab.finish(copied)
    return holds_if(
        early == [-1] and host.tolist() == [7],
        f"{early} before the event, {host.tolist()} after it",
    )


def visible_at_the_end(lab: Lab) -> Finding:
    """Read on another stream, with no wait, what the host knows to be complete."""
    writer, reader, size = lab.stream("writer"), lab.stream("reader"), 4096
    table = lab.cells(*([0] * size))
    wrong = []
    for value in range(1, 51):
        lab.finish(writer.launch(fill, table, value, writes=[table]))
        (total,) = lab.value(reader.launch(_total, table, reads=[table]))
        if total != value * size:
            wrong.append(value)
    return holds_if(not wrong, f"{len(wrong)} of 50 complete writes were not seen as a whole")


def _total(table: Tensor) -> Tensor:
    return table.sum().view(1)


def _overwritten(lab: Lab, *, is_fenced: bool) -> list[tuple[int, int]]:
    """Return what a launch read early and late in a table that another stream overwrote."""
    reader, writer = lab.stream("reader"), lab.stream("writer")
    return [
        _overwrite_once(lab, reader, writer, is_fenced)
        for _ in range(60 if lab.is_simulated else 8)
    ]


def _overwrite_once(lab: Lab, reader: Stream, writer: Stream, is_fenced: bool) -> tuple[int, int]:
    table = lab.cells(1, 1)
    early, late = table[:1], table[1:]
    be_busy = lab.busy(_MIDDLE_S)

    def read() -> tuple[Tensor, Tensor]:
        first = early.clone()
        be_busy(None)
        return first, late.clone()

    # On the simulated device the moment of each read is drawn; elsewhere work lies between them.
    seen = reader.launch(read, reads=[early, late])
    if is_fenced:
        # WAR: the writer reuses the table that the reader may still read.
        writer.wait_event(reader.record("shared_read_done"))
    written = writer.launch(fill, table, 2, writes=[table])
    lab.finish(written, seen)
    first, second = seen.result()
    return int(first), int(second)


def _overtaken(lab: Lab, is_fenced: bool) -> list[int]:
    """Return what a held reader saw of a table that another stream overwrote."""
    reader, writer = lab.stream(f"reader {is_fenced}"), lab.stream(f"writer {is_fenced}")
    table = lab.cells(1)
    held = lab.hold(reader)
    seen = reader.launch(copy_of, table, reads=[table])
    if is_fenced:
        # WAR: the writer reuses the table that the reader may still read.
        writer.wait_event(reader.record("shared_read_done"))
    written = writer.launch(fill, table, 2, writes=[table])
    if not is_fenced:
        lab.finish(written)
    held.release()
    lab.finish(written)
    return lab.value(seen)


def _counts(seen: list[tuple[int, int]]) -> str:
    return ", ".join(f"{pair} {seen.count(pair)} times" for pair in sorted(set(seen)))


CASES = (
    Case("middle", "a write may land in the middle of a launch", write_lands_in_the_middle),
    Case("fence", "a fence keeps it out", fence_keeps_the_write_out),
    Case("overtaken", "a late reader sees what overtook it", late_reader_sees_the_overwrite),
    Case("early_copy", "the target of a copy is old before its event", early_host_read_is_old),
    Case("visible", "writes are visible at the end of a launch at the latest", visible_at_the_end),
)
