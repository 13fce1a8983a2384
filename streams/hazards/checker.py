"""``HazardChecker``: reports accesses that conflict and that nothing orders."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from streams.current import work_tag
from streams.hazards.access import Access
from streams.hazards.findings import Findings
from streams.hazards.order import Actor, Clock, HostActor, Order, StreamActor
from streams.hazards.ranks import RankHosts
from streams.hazards.report import HOST, HazardError, Party, Report
from streams.hazards.shadow import Memory, Use, is_dense
from streams.hazards.site import call_site
from streams.hazards.tasks import Observer, TaskHosts
from streams.launch import Launch, Operation
from streams.monitor import DeviceMonitor

if TYPE_CHECKING:
    from streams.device import Device
    from streams.event import Event
    from streams.stream import Stream

__all__ = ["HazardChecker"]


class HazardChecker(DeviceMonitor):
    """Watches launches, events and buffer accesses of one or several devices.

    Two accesses to overlapping bytes, one of them a write, that no chain of launches, waits,
    records and observations orders are reported, whatever the timing was: what is looked at
    is what was asked for, not when it ran. Only declared accesses are seen (``launch(reads=,
    writes=)``; the buffers of this library declare theirs), and only runs that took place::

        checker = HazardChecker()
        with checker.watch(device): ...
        checker.raise_if_any()

    Args:
        strict: keep a clock for each task instead of one for the whole host, which finds what
            is in order only by luck of the event loop. Needs a loop that tells of its
            callbacks: ``loop.add_observer(checker.observer())``. Non-blocking hand-overs need
            ``handoff``.
        on_report: called with each new report.

    Attributes:
        reports: one per kind, memory, stages and lines; ``count`` says how often. Of tensors
            that are used at the same lines in one step the first eight are told apart.
        num_accesses: accesses that were checked, rows counted singly.
        memory: what accesses have named so far; its length is the number of storages.
    """

    def __init__(
        self, *, strict: bool = False, on_report: Callable[[Report], object] | None = None
    ) -> None:
        self.strict = strict
        self._findings = Findings(on_report)
        self.reports = self._findings.reports
        self.num_accesses = 0
        self._order = Order()
        # Guards all that is here: an event may be observed on any thread.
        self._lock = threading.RLock()
        ids = self._order.ids
        self._hosts = TaskHosts(ids) if strict else RankHosts(ids, self._lock)
        self.memory = Memory(self._hosts.floor)

    def __repr__(self) -> str:
        mode = "strict " if self.strict else ""
        return f"<HazardChecker {mode}{len(self.reports)} reports, {self.num_accesses} accesses>"

    def raise_if_any(self) -> None:
        """Raise all that was found.

        Raises:
            HazardError: something was.
        """
        if self.reports:
            raise HazardError(self.reports)

    def observer(self) -> Observer:
        """Return what an event loop shall tell of its callbacks, for strict mode.

        Raises:
            ValueError: the checker is not strict, and has one clock for the host.
        """
        if not isinstance(self._hosts, TaskHosts):
            raise ValueError("only HazardChecker(strict=True) has use for an observer of the loop")
        return self._hosts

    def add(self, device: "Device", report: Report, about: Tensor | None = None) -> None:
        """Add a finding of another checker, unless it is known; it is counted then."""
        with self._lock:
            party = report.later
            of = (party.stage and party.stage.stage, *party[1:3], party.site) if party else None
            self._add(device, report, (report.kind, report.memory, report.message, of), about)

    def register(self, *tensors: Tensor) -> None:
        """Know memory that no access has named yet."""
        with self._lock:
            for tensor in tensors:
                self.memory.pieces(tensor)

    def name_if_known(self, tensor: Tensor) -> str | None:
        """Name a tensor for a report; None if no access has named its storage. Any thread."""
        with self._lock:
            return self.memory.name(tensor) if self.memory.known(tensor) else None

    # Edges ----------------------------------------------------------------

    def on_launch(self, operation: Operation) -> None:
        """Order a launch behind what the host did, and check what it declares."""
        event = operation.launch.event
        with self._lock:
            stream = self._order.launch(event, self._hosts.current())
            if operation.reads or operation.writes or operation.takes:
                self._check_launch(operation, stream, event.recorded_on().device)

    def on_record(self, event: "Event") -> None:
        """Let ``event`` carry the order of its stream."""
        with self._lock:
            self._order.record(event)

    def on_drain(self, event: "Event") -> None:
        """Let ``event`` carry the order of its stream's last operation."""
        with self._lock:
            self._order.drain(event)

    def on_wait(self, stream: "Stream", event: "Event") -> None:
        """Order what comes on ``stream`` behind ``event``."""
        with self._lock:
            self._order.wait(stream, event)

    def on_observed(self, event: "Event") -> None:
        """Order what the host does from now on behind ``event``."""
        with self._lock:
            self._order.observe(event, self._hosts.current())

    # Accesses -------------------------------------------------------------

    def on_host_access(
        self, device: "Device", memory: "Tensor | Access | Launch[Any]", *, is_write: bool
    ) -> None:
        """Check what the host itself reads or writes."""
        with self._lock:
            if isinstance(memory, Launch):
                host = self._hosts.current()
                read = Use(host, 0, False, False, HOST, 0, work_tag.get(), call_site())
                self._check_value(memory, read, device)
            else:
                self._check_host((memory,), device, HOST, is_write=is_write)

    def on_free(self, device: "Device", memory: "Iterable[Tensor | Access]", what: str) -> None:
        """Check that nobody uses what was given back.

        Of a device that is lost or closed everything may be: no later owner can put work on it.
        """
        if device.lost is not None or device.is_closed:
            return
        with self._lock:
            self._check_host(memory, device, what, is_write=True, is_free=True)

    def on_misuse(self, device: "Device", kind: str, message: str) -> None:
        """Report what was refused, or should not be done."""
        self.add(device, Report(kind, message=message))

    def _check_launch(self, operation: Operation, stream: StreamActor, device: "Device") -> None:
        site = call_site()
        for accesses, is_write in ((operation.reads, False), (operation.writes, True)):
            use = Use(
                stream,
                operation.number,
                is_write,
                False,
                operation.label,
                operation.number,
                operation.tag,
                site,
            )
            for access in accesses:
                self._check(access, use, stream.clock, device)
            for launch in operation.takes if not is_write else ():
                self._check_value(launch, use, device)

    def _check_host(
        self,
        accesses: "Iterable[Tensor | Access]",
        device: "Device",
        what: str,
        *,
        is_write: bool,
        is_free: bool = False,
    ) -> None:
        host = self._hosts.current()
        count = host.access()
        use = Use(host, count, is_write, is_free, what, 0, work_tag.get(), call_site())
        for access in accesses:
            self._check(access, use, host.clock, device)

    def _check_value(self, launch: Launch[Any], read: Use, device: "Device") -> None:
        """Check that a launch's value is taken only after the launch is complete."""
        event = launch.event
        self.num_accesses += 1
        if not self._order.is_behind(event, read.actor):
            stream = self._order.stream(event.recorded_on())
            wrote = Use(
                stream, event.number, True, False, launch.label, event.number, event.tag, None
            )
            self._conflict(f"the value of {launch.label}", (), read, wrote, device, None)

    def _check(self, memory: object, use: Use, clock: Clock, device: "Device") -> None:
        if not isinstance(memory, Access) and not is_dense(memory):
            message = f"{use.label} declares {_described(memory)}; {_KNOWN}"
            self.on_misuse(device, "undeclared", message)
            return
        found: dict[Use, list[int | None]] = {}
        for cell, row in self.memory.pieces(memory):
            self.num_accesses += 1
            for other in cell.access(use, clock):
                found.setdefault(other, []).append(row)
        for other, rows in found.items():
            named = tuple(sorted({row for row in rows if row is not None}))
            self._conflict(self.memory.name(memory), named, use, other, device, memory)

    # Reports --------------------------------------------------------------

    def _conflict(
        self,
        memory: str,
        rows: tuple[int, ...],
        later: Use,
        earlier: Use,
        device: "Device",
        about: Tensor | Access | None,
    ) -> None:
        report = Report(
            _kind(later, earlier),
            memory,
            rows,
            _party(later),
            _party(earlier),
            _missing(earlier, later.actor),
        )
        same = (report.kind, memory, _place(later), _place(earlier))
        self._add(device, report, same, about)

    def _add(
        self, device: "Device", report: Report, same: object, about: Tensor | Access | None
    ) -> None:
        number = None if about is None else self.memory.number(about)
        seed, name = getattr(device, "seed", None), self._order.name_device(device)
        report = replace(report, seed=seed, device=name)
        self._findings.add(report, same, number)


_KNOWN = "give dense tensors, or Access(buffer, field, rows, memory), in reads= and writes="


def _described(memory: object) -> str:
    """Say what something is, without its values: to read these could wait for the device."""
    if isinstance(memory, Tensor):
        words = f"a {memory.layout} tensor {tuple(memory.shape)} {memory.dtype}"
        return words.replace("torch.", "")
    return f"a {type(memory).__name__}"


def _kind(later: Use, earlier: Use) -> str:
    if later.is_free or earlier.is_free:
        return "early_return"
    if not later.is_write:
        return "RAW"
    return "WAW" if earlier.is_write else "WAR"


def _party(use: Use) -> Party:
    return Party(use.tag, use.actor.name, use.label, use.number, use.is_write, use.site)


def _place(use: Use) -> object:
    """What makes uses of several steps the same for a reader of reports."""
    stage = use.tag.stage if use.tag else None
    return stage, use.actor.name, use.label, use.is_write, use.site


def _missing(earlier: Use, later: Actor) -> str:
    """Say which edge would have ordered the two."""
    how = " (await it)" if isinstance(later, HostActor) else ""
    if isinstance(earlier.actor, StreamActor):
        event = earlier.actor.record_behind(earlier.number)
        if event is None:
            behind = f"{earlier.label} #{earlier.number}"
            event = f"an event of {earlier.actor.name!r} behind {behind}"
        return f"{event} -> {later.name}{how}"
    assert isinstance(earlier.actor, HostActor), "there is no third kind"
    return f"{earlier.actor.name} -> {later.name} ({earlier.actor.joined_by} between them)"
