"""Device streams: FIFO queues of device work.

``Stream`` holds what every device shares: numbering, the completion counter,
launch arguments, failures, retained memory. A device adds how an operation is
issued and how its completion becomes known.
"""

from abc import ABC, abstractmethod
from asyncio import current_task
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from streams.current import work_tag
from streams.errors import DeviceClosedError, NotIssuerError
from streams.event import Event
from streams.failures import Failures
from streams.gates import Gates
from streams.guard import check_blocking
from streams.launch import Launch, Operation, launches_in
from streams.monitor import Span, told

if TYPE_CHECKING:
    import asyncio

    from streams.device import Device

__all__ = ["Stream"]

T = TypeVar("T")


class Stream(ABC):
    """A FIFO queue of device work.

    Operations put on one stream run in order; operations on different streams
    run concurrently unless an event orders them. Nothing here waits: enqueueing
    is ``def``. Calls must come from one thread.

    Attributes:
        device: the device it belongs to.
        name: unique among the device's open streams.
        priority: 0 is normal; negative is more urgent, where the device can.
        completed: completion counter, the number of the last finished operation.
        busy_s: seconds that finished launches ran on the device, where known.
        failures: what its launches raised.
        is_closed: whether the stream was given back.
        issuer: in strict mode the one task that may enqueue here.
    """

    #: Whether the stream itself can call back when it reaches a number.
    notifies = False

    def __init__(self, device: "Device", name: str, priority: int) -> None:
        self.device = device
        self.name = name
        self.priority = priority
        self.completed = 0
        self.busy_s = 0.0
        self.issuer: asyncio.Task[Any] | None = None
        self._issued = 0
        self._last_record = 0
        self._gates = Gates(self)
        self._in_flight: deque[Operation] = deque()
        self.failures = Failures(name)
        self.is_closed = False

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.name!r} on {self.device.name}: "
            f"{self.completed} of {self._issued} done>"
        )

    # Enqueueing -----------------------------------------------------------

    def launch(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        reads: Iterable[object] = (),
        writes: Iterable[object] = (),
        **kwargs: Any,
    ) -> Launch[T]:
        """Put ``fn(*args, **kwargs)`` on this stream; never waits.

        Args:
            fn: issues device work (on the CPU device: is the work). Must not wait
                for a device.
            args: a ``Launch`` among them, also inside tuples, lists and dicts,
                is replaced by its value; one from another stream is waited for on
                the device first.
            reads: tensors or buffers that the work reads, for the hazard checker.
            writes: tensors or buffers that it writes.
            kwargs: like ``args``.

        Returns:
            The launch. Everything that it was given stays alive until the device
            has finished it, whoever is cancelled meanwhile.

        Raises:
            DeviceClosedError: the device is closed.
            DeviceLostError: the device failed for good.
            NotIssuerError: strict mode, and another task owns this stream.
        """
        self._check_usable()
        takes = tuple(launches_in((args, kwargs)))
        self._wait_for(takes)
        label = getattr(fn, "__name__", type(fn).__name__)
        operation = self._operation(label, fn, args, kwargs, tuple(reads), tuple(writes), takes)
        # If the function fails at once, the frames of its error lead back to this one: only the
        # operation, which lets go when the device is done, may refer to memory from here.
        del fn, args, kwargs, reads, writes, takes
        return self._put(operation)

    def record(self, label: str = "event") -> Event:
        """Return an event that stands for all work put on this stream so far.

        Raises:
            DeviceClosedError: the device is closed.
            DeviceLostError: the device failed for good.
            NotIssuerError: strict mode, and another task owns this stream.
        """
        event = self._mark(label, since=self._last_record)
        self._last_record = self._issued
        return event

    def wait_event(self, event: Event) -> None:
        """Let work put on this stream from now on run after ``event``.

        Device side only: the host does not wait.

        Raises:
            EventNotRecordedError: nothing ever recorded the event.
            ValueError: the event belongs to another device.
        """
        self._check_usable()
        other = event.recorded_on(self.device)
        if other.device is not self.device:
            raise ValueError(
                f"stream {self.name!r} on {self.device.name} cannot wait for {event!r} "
                f"of {other.device.name}; await the event on the host instead"
            )
        for monitor in self.device.monitors:
            monitor.on_wait(self, event)
        self._gates.add(event)

    def wait_stream(self, other: "Stream") -> None:
        """Let work put here from now on run after all work put on ``other`` so far."""
        if other is self:
            return
        other._check_usable()
        if other._has_loose_work():
            other._put(other._operation("record", None))
        self.wait_event(other._event("wait_stream", since=other._issued))
        # What other has yet to wait for is waited for here. As an operation on other it would
        # cost one more: a record on an accelerator, waking one more thread on the CPU device.
        self._gates.add_all(other._gates)

    # Waiting --------------------------------------------------------------

    @abstractmethod
    def advance(self, number: int) -> int:
        """Ask the device, without waiting, whether ``number`` is done.

        The one call that a poller makes: one per stream serves all its waiters.

        Returns:
            The completion counter, at least ``number`` if that is done.

        Raises:
            DeviceLostError: the device failed, and ``number`` will never be done.
            DeviceClosedError: the device was closed before ``number`` was done.
        """

    @abstractmethod
    def block_until(self, number: int) -> None:
        """Block this thread, without the GIL, until ``number`` is done.

        For waiter threads. Never call it on the event loop's thread.

        Raises:
            DeviceLostError: the device failed, and ``number`` will never be done.
            DeviceClosedError: the device was closed before ``number`` was done.
        """

    def notify_at(self, number: int, callback: Callable[[], object]) -> None:
        """Call ``callback`` once ``number`` is done or can no longer be done.

        From any thread, or at once; only streams with ``notifies`` have it.
        """
        raise TypeError(f"{self!r} cannot call back; poll it with advance()")

    def synchronize(self) -> None:
        """Block this thread until all work put on this stream so far is done.

        Raises:
            HostBlockedError: called on the event loop's thread inside a guarded
                task in strict mode; await ``record()`` instead.
        """
        check_blocking(f"Stream.synchronize() on {self.name!r}")
        self._mark("synchronize").block()

    async def drained(self, timeout: float | None = None) -> None:
        """Suspend until all work put here so far is done, whether it failed or not.

        Enqueues nothing and may be awaited by any task.

        Raises:
            DeadlineError: not done within ``timeout`` seconds.
            DeviceLostError: the device failed for good.
            DeviceClosedError: the device was closed before.
        """
        event = Event("drained", stream=self, number=self._issued)
        for monitor in self.device.monitors:
            monitor.on_drain(event)
        await event.reached(timeout)

    def close(self) -> None:
        """Give the stream back; its name is free again. Closing twice does nothing.

        Await ``drained()`` first: what is queued never starts, and who waits for
        it gets ``DeviceClosedError``.
        """
        self.device.close_stream(self)

    def queue_before(self, number: int) -> list[str]:
        """Name the unfinished operations up to ``number``, oldest first.

        Before an operation that waits for other streams come theirs.
        """
        names: list[str] = []
        self._list_queue(number, names, {})
        return names

    def _list_queue(self, number: int, names: list[str], listed: "dict[Stream, int]") -> None:
        for operation in tuple(self._in_flight):
            if listed.get(self, 0) < operation.number <= number:
                listed[self] = operation.number
                for gate in operation.gates:
                    gate.recorded_on()._list_queue(gate.number, names, listed)
                names.append(f"{operation} on {self.name!r}")

    def raise_failure(self, since: int, upto: int) -> None:
        """Raise what the first failed launch in ``(since, upto]`` raised, if any."""
        self.failures.raise_first(since, upto)

    # For devices ----------------------------------------------------------

    def _mark(self, label: str, since: int | None = None) -> Event:
        """Record without taking failures away from the next ``record``.

        Args:
            label: names the event.
            since: the event reports failures behind this number; None: it reports none.
        """
        self._check_usable()
        if self._has_loose_work():
            self._put(self._operation("record", None))
        elif not self._last_waits_for_gates():
            self._put(self._operation("wait", None))
        return self._event(label, self._issued if since is None else since)

    def _event(self, label: str, since: int) -> Event:
        event = Event(label, stream=self, number=self._issued, since=since, tag=work_tag.get())
        for monitor in self.device.monitors:
            monitor.on_record(event)
        return event

    @abstractmethod
    def _issue(self, operation: Operation) -> None:
        """Hand a numbered operation to the device; must not wait."""

    def _has_loose_work(self) -> bool:
        """Whether work may have got onto this stream that no operation stands for."""
        return False

    def _enter_native(self) -> Any:
        """Make this stream current for torch on this thread; return what was."""
        return None

    def _exit_native(self, former: Any) -> None:
        """Restore what ``_enter_native`` returned."""

    def _last_waits_for_gates(self) -> bool:
        """Whether the last operation waits for no less than the next one would, if it does."""
        if not self._gates:
            return True
        try:
            last = self._in_flight[-1]
        except IndexError:  # another thread may have seen the last one off just now
            return False
        return self._gates.are_those_of(last)

    def _wait_for(self, launches: tuple[Launch[Any], ...]) -> None:
        for launch in launches:
            # RAW: a launch on this stream reads the value that one on another stream writes.
            self.wait_event(launch.event)

    def _operation(
        self,
        label: str,
        fn: Callable[..., Any] | None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        reads: tuple[object, ...] = (),
        writes: tuple[object, ...] = (),
        takes: tuple[Launch[Any], ...] = (),
    ) -> Operation:
        """Give the next number to what is about to be put on this stream."""
        self._issued = number = self._issued + 1
        tag = work_tag.get()
        event = Event(label, stream=self, number=number, since=number - 1, tag=tag)
        launch: Launch[Any] = Launch(event, label)
        gates = self._gates.take()
        return Operation(
            number, label, tag, fn, args, kwargs or {}, gates, launch, reads, writes, takes
        )

    def _put(self, operation: Operation) -> Launch[Any]:
        self._in_flight.append(operation)
        if operation.fn is not None:
            for monitor in self.device.monitors:
                monitor.on_launch(operation)
        self._issue(operation)
        return operation.launch

    def _report_span(self, operation: Operation, start_s: float, end_s: float) -> None:
        """Add a finished launch to ``busy_s``, and tell the monitors."""
        self.busy_s += end_s - start_s
        label, number, tag = operation.label, operation.number, operation.tag
        failed = operation.launch.failure is not None
        span = Span(self.name, label, number, tag, start_s, end_s, failed)
        for monitor in self.device.monitors:
            monitor.on_span(span)

    def _retire(self, upto: int) -> None:
        """Let go of what the device no longer uses."""
        in_flight = self._in_flight
        while in_flight and in_flight[0].number <= upto:
            in_flight.popleft().release()

    def _check_usable(self) -> None:
        self.device.check_usable()
        if self.is_closed:
            raise DeviceClosedError(f"stream {self.name!r} is closed; open another")
        if self.issuer is not None and self.issuer is not _task():
            error = NotIssuerError(
                f"{_caller()} made a device call on stream {self.name!r}, which task "
                f"{self.issuer.get_name()!r} owns; make it in prepare or forward"
            )
            raise told(self.device, "issuer", error)

    def _unfinished(self, number: int) -> DeviceClosedError:
        return DeviceClosedError(
            f"device {self.device.name} or its stream was closed before operation #{number} on "
            f"stream {self.name!r} was done; await it before closing"
        )


def _caller() -> str:
    task = _task()
    return "code outside of any task" if task is None else f"task {task.get_name()!r}"


def _task() -> "asyncio.Task[Any] | None":
    try:
        return current_task()
    except RuntimeError:  # no loop runs on this thread
        return None
