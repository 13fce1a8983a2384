"""Memory that ranks of one process use, for tests of what orders them."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from streams.hazards import HazardChecker, rank_scope
from streams.launch import Launch
from tests.streams.hazards.launches import launch
from tests.streams.hazards.lazy_device import LazyDevice

__all__ = ["Meeting", "Shared", "acts", "call"]


class Meeting:
    """Where ranks meet once."""


class Shared:
    """Memory that ranks of one process use, and the checker that is told."""

    def __init__(self, num_cells: int = 1) -> None:
        self.checker = HazardChecker()
        self.device = LazyDevice()
        self.device.add_monitor(self.checker)
        self.cells = [torch.zeros(2) for _ in range(num_cells)]

    def write(self, rank: int | None, cell: int = 0) -> None:
        """Let the host write for a rank, or for none."""
        self._access(rank, cell, is_write=True)

    def read(self, rank: int | None, cell: int = 0) -> None:
        """Let the host read."""
        self._access(rank, cell, is_write=False)

    def launch(self, rank: int | None, **accesses: Any) -> Launch[None]:
        """Launch on a stream of the rank's own."""
        with acts(rank):
            name = f"forward of {rank}"
            known = {stream.name: stream for stream in self.device.streams}
            return launch(known.get(name) or self.device.stream(name), 1, "forward", **accesses)

    @property
    def found(self) -> list[tuple[str, str, str]]:
        """Kind, earlier and later actor of each report."""
        return [
            (report.kind, report.earlier.actor, report.later.actor)
            for report in self.checker.reports
            if report.earlier is not None and report.later is not None
        ]

    def _access(self, rank: int | None, cell: int, *, is_write: bool) -> None:
        with acts(rank):
            self.checker.on_host_access(self.device, self.cells[cell], is_write=is_write)


def acts(rank: int | None) -> Any:
    """Act for a rank, or for none."""
    return nullcontext() if rank is None else rank_scope(rank)


def call(do: Callable[[object], None], rank: int | None, obj: object) -> None:
    """Arrive, depart or hand off as a rank."""
    with acts(rank):
        do(obj)
