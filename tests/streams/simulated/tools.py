"""Short programs for the simulated device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from streams.current import WorkTag, work_tag
from streams.monitor import DeviceMonitor, Span
from streams.simulated import SimProfile

__all__ = ["FIXED", "Spans", "add", "copy_of", "fill", "nothing", "tagged"]

#: Every launch takes 10 us, so that tests can say when what happens.
FIXED = SimProfile("fixed", (10, 10), (10, 10), (10, 10), (10, 10), (10, 10), query_us=1.0)


class Spans(DeviceMonitor):
    """Keeps what ran when."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def on_span(self, span: Span) -> None:
        """Keep it."""
        self.spans.append(span)

    @property
    def times_us(self) -> dict[str, tuple[int, int]]:
        """Start and end of each label, in microseconds."""
        return {s.label: (round(s.start_s * 1e6), round(s.end_s * 1e6)) for s in self.spans}


@contextmanager
def tagged(stage: str, step: int = 1) -> Iterator[None]:
    """Issue work on behalf of a stage."""
    token = work_tag.set(WorkTag(step, stage))
    yield
    work_tag.reset(token)


def nothing() -> None:
    """Do no work."""


def fill(cell: torch.Tensor, value: float) -> torch.Tensor:
    """Set ``cell`` to ``value``."""
    return cell.fill_(value)


def add(cell: torch.Tensor, value: float) -> torch.Tensor:
    """Add ``value`` in place."""
    return cell.add_(value)


def copy_of(cell: torch.Tensor) -> torch.Tensor:
    """Return a copy of ``cell`` as it is when the device gets here."""
    return cell.clone()
