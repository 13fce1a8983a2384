"""A stream of the simulated device."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from streams.launch import Operation
from streams.simulated.faults import FaultKind, error_of
from streams.simulated.progress import device_report
from streams.stream import Stream

if TYPE_CHECKING:
    from streams.simulated.device import SimDevice
    from streams.simulated.queue import SimQueue

__all__ = ["SimStream"]


class SimStream(Stream):
    """A stream whose work takes virtual time; see ``SimDevice``.

    Attributes:
        queue: where its operations run, perhaps shared with other streams.
    """

    def __init__(self, device: "SimDevice", name: str, priority: int, queue: "SimQueue") -> None:
        super().__init__(device, name, priority)
        self.queue = queue
        self.notifies = not device.profile.polled
        self._sim = device
        self._timeline = device.timeline
        # By number: whom to tell; a fault may make these late, but never the followers.
        self._callbacks: list[tuple[int, Callable[[], object]]] = []
        self._followers: list[tuple[int, Callable[[], object]]] = []

    def advance(self, number: int) -> int:
        """Return the counter; a question to the device costs a little virtual time.

        Raises:
            InjectedFaultError: by a fault of the device's plan.
        """
        with self._timeline.changed:
            if self.completed < number:
                self._timeline.adopt_clock()
                self._check_reachable(number)
                self._raise_query_fault(number)
                self._timeline.spend(self._sim.profile.query_ns)
            if self.completed < number:
                self._check_reachable(number)
            return self.completed

    def block_until(self, number: int) -> None:
        """Move the virtual clock on, on this thread, until ``number`` is done.

        Raises:
            DeadlockError: nothing that is under way can bring that about.
        """
        self._timeline.block_while(
            lambda: self._is_awaiting(number), lambda: device_report(self._sim)
        )

    def notify_at(self, number: int, callback: Callable[[], object]) -> None:
        """Call ``callback`` at the virtual time at which ``number`` is done."""
        if not self.notifies:
            super().notify_at(number, callback)
        with self._timeline.changed:
            if self.completed < number and not self._is_dead:
                self._callbacks.append((number, callback))
                self._timeline.adopt_clock()
                self._timeline.keep_moving()
                return
        callback()

    def when_done(self, number: int, step: Callable[[], object]) -> None:
        """Device only: call ``step`` at once when ``number`` is done, or never will be."""
        self._followers.append((number, step))

    def finish(self, operation: Operation, start_ns: int, end_ns: int) -> None:
        """Device only: an operation has run; let go of it, and let its followers begin."""
        if operation.fn is not None:
            self._report_span(operation, start_ns / 1e9, end_ns / 1e9)
        self._retire(operation.number)
        self.completed = operation.number
        followers, self._followers = _split(self._followers, self.completed)
        for step in followers:
            step()

    def take_due(self) -> list[Callable[[], object]]:
        """Device only: take the callbacks whose number is done."""
        due, self._callbacks = _split(self._callbacks, self.completed)
        return due

    def wake_all(self) -> None:
        """Device only: make every waiter look again: the stream is closed or lost."""
        waiting = self._followers + self._callbacks
        self._followers, self._callbacks = [], []
        for _, call in waiting:
            call()

    def shut(self) -> None:
        """Device only: wake everybody, and let go of what never ran."""
        self.wake_all()
        self._retire(self._issued)
        self.failures.report_unseen()

    @property
    def _is_dead(self) -> bool:
        return self.is_closed or self._sim.is_stopped

    def _is_awaiting(self, number: int) -> bool:
        if self.completed < number:
            self._check_reachable(number)
        return self.completed < number

    def _check_reachable(self, number: int) -> None:
        if self.device.lost is not None:
            raise self.device.lost_error()
        if self._is_dead:
            raise self._unfinished(number)

    def _raise_query_fault(self, number: int) -> None:
        for entry in self.queue.waiting_on(self, number):
            fault = self._sim.faults.activate(entry.faults, FaultKind.QUERY_ERROR)
            if fault is not None:
                entry.faults = tuple(other for other in entry.faults if other is not fault)
                raise error_of(fault, entry.operation)

    def _issue(self, operation: Operation) -> None:
        with self._timeline.changed:
            self._timeline.adopt_clock()
            self.queue.put(self, operation)


_Calls = list[tuple[int, Callable[[], object]]]


def _split(calls: _Calls, upto: int) -> tuple[list[Callable[[], object]], _Calls]:
    """Return the calls up to a number, in the order of asking, and the others."""
    return [call for at, call in calls if at <= upto], [c for c in calls if c[0] > upto]
