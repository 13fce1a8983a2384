"""What the hazard checker found."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from streams.current import WorkTag
from streams.errors import AioSchedError
from streams.guard import CallSite

__all__ = ["HOST", "HazardError", "Party", "Report"]

_MAX_ROWS = 8

HOST = "the host"
"""Label of what the host does with memory, where there is no better one."""


class Party(NamedTuple):
    """One of the two accesses that nothing orders.

    Attributes:
        stage: step and stage that asked for it, where known.
        actor: the stream's name, the task's in strict mode, or ``"host"``.
        label: the launch's name, or what the host did.
        number: the operation's place on its stream; 0 for the host.
        is_write: whether it writes.
        site: the line that asked for it.
    """

    stage: WorkTag | None
    actor: str
    label: str
    number: int
    is_write: bool
    site: CallSite | None

    def __str__(self) -> str:
        what = f"{self.label} #{self.number}" if self.number else self.label
        if self.label == HOST:  # and the actor says which part of it
            by = f"{self.stage} ({self.actor})" if self.stage else self.actor
        else:
            by = f"{self.stage} ({self.actor}: {what})" if self.stage else f"{what} ({self.actor})"
        at = f" at {_short(self.site)}" if self.site else ""
        return f"{by} {'writes' if self.is_write else 'reads'}{at}"


@dataclass(frozen=True, slots=True)
class Report:
    """One finding; further ones of the same kind, memory, stages and lines are counted.

    Attributes:
        kind: ``"RAW"``, ``"WAR"``, ``"WAW"`` (two accesses that nothing orders; the first word
            is the later one), ``"early_return"`` (memory was given back, or claimed again, under
            a use), ``"undeclared"`` (the audit saw an access that its launch does not declare),
            ``"stale"``, ``"unrecorded"``, ``"poison"``, ``"issuer"``, ``"torch_mode"``.
        memory: names the buffer or tensor; empty where it is about none.
        rows: the rows of the buffer; empty for all of a tensor.
        later: the access that found the other one unordered.
        earlier: the access that was asked for before.
        missing: the edge that would order them, in words.
        message: what a misuse is about, for kinds without two accesses.
        seed: replays the run on a simulated device.
        count: how often it was found.
        device: names the device, where the checker has seen several; of two with one name,
            which.
    """

    kind: str
    memory: str = ""
    rows: tuple[int, ...] = ()
    later: Party | None = None
    earlier: Party | None = None
    missing: str = ""
    message: str = ""
    seed: int | None = None
    count: int = 1
    device: str = ""

    def __str__(self) -> str:
        return "; ".join(self._parts())

    @property
    def where(self) -> str:
        """The memory with its rows."""
        if not self.rows:
            return self.memory
        more = f" and {len(self.rows) - _MAX_ROWS} more" if len(self.rows) > _MAX_ROWS else ""
        return f"{self.memory}[{', '.join(map(str, self.rows[:_MAX_ROWS]))}{more}]"

    def _parts(self) -> Iterable[str]:
        parties = ", ".join(str(party) for party in (self.later, self.earlier) if party)
        on = f" on {self.where}" if self.memory else ""
        yield f"{self.kind}{on}: {', '.join(filter(None, (parties, self.message)))}"
        if self.missing:
            yield f"missing: {self.missing}"
        if self.device:
            yield f"device {self.device}"
        if self.count > 1:
            yield f"{self.count} times"
        if self.seed is not None:
            yield f"--seed {self.seed}"


class HazardError(AioSchedError, RuntimeError):
    """The hazard checker has reports.

    Attributes:
        reports: all of them.
    """

    def __init__(self, reports: Iterable[Report]) -> None:
        self.reports = tuple(reports)
        lines = "\n".join(f"  {report}" for report in self.reports)
        super().__init__(
            f"{len(self.reports)} hazards were found; add the missing order, or declare what the "
            f"launch really uses:\n{lines}"
        )


def _short(site: CallSite) -> str:
    inside = os.path.join(os.getcwd(), "")
    return f"{site.file.removeprefix(inside)}:{site.line}"
