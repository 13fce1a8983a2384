"""The streams of an accelerator: native streams whose progress is read from native events.

How completion becomes known. Each operation ends in a native event. ``advance(number)``
queries the event of ``number`` alone, and on success moves the completion counter there.
What an operation waited for is then complete too, so the counters of the other streams
follow without a query of their own: when ``copy_done`` is seen, the memory of the forward
that it waited for is let go. A native event is recorded again only when the counter has
passed it and no thread holds it: device-side waits took hold of the former record when
they were enqueued, and nobody else can still ask for it.

Why memory is safe. torch's allocator reuses a freed block at once on the stream that
allocated it. A tensor made on stream A, read on stream B and dropped by its user must
therefore not be freed before B has read it, and ``wait_event`` does not help: A goes on
while B reads. Whatever a launch is given, values of other launches included, and the
value that it gives, stay referenced until the counter has passed the launch; this does
what ``Tensor.record_stream`` does, for all allocators, without its cost and for
everything that goes through arguments. Memory that a function reaches in another way
(a buffer of the model, a closure that is changed later) must live for as long as work
that reads it, or be given to ``record_stream``.

Plain torch calls while a stream is current (in a stage, say) go to its native stream: they
come behind the waits that were asked for, and ``record`` covers them. Not so with
``issue="thread"``: there they overtake launches that the issuer has yet to make, so device
work belongs into launches.
"""

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from streams.accelerator.clock import DeviceClock
from streams.current import use_stream
from streams.errors import LaunchAbortedError
from streams.event import Event
from streams.guard import allow_blocking
from streams.launch import Launch, Operation
from streams.stream import Stream

if TYPE_CHECKING:
    from streams.accelerator import AcceleratorDevice

__all__ = ["AcceleratorStream", "Issued"]

#: This many operations in flight are no reason to look at the device unasked.
_FEW = 8


class Issued:
    """The native events of one operation.

    Attributes:
        end: recorded behind its work.
        start: recorded in front of its work, if that is timed.
        issued_s: host time before it was issued.
        num_holders: threads that use ``end`` now; it must not be recorded again.
    """

    __slots__ = ("end", "issued_s", "num_holders", "start")

    def __init__(self, end: torch.Event) -> None:
        self.end = end
        self.start: torch.Event | None = None
        self.issued_s = time.perf_counter()
        self.num_holders = 0


class AcceleratorStream(Stream):
    """A stream whose completion counter follows native events.

    Attributes:
        native: torch's stream, for graph capture and libraries; do not record on it what
            must be known here.
    """

    device: "AcceleratorDevice"

    def __init__(self, device: "AcceleratorDevice", name: str, priority: int) -> None:
        super().__init__(device, name, priority)
        self.native = device.native.draw(name, priority)
        self._clock = self._start_clock() if device.capabilities.device_timing else None
        self._catch_up_at = _FEW
        # How many blocks have it current, other than a launch's function on the issuer thread;
        # and whether one ended since the last operation.
        self._num_entered = 0
        self._was_entered = False

    # Waiting --------------------------------------------------------------

    def advance(self, number: int) -> int:
        """Query the native event of ``number``, unless a graph capture is open."""
        if self.completed < number:
            self._check_reachable(number)
            if not self.device.is_capturing and self._is_done(number):
                self._pass(number)
            if self.device.lost is not None and self.completed < number:
                raise self.device.lost_error()
        return self.completed

    def block_until(self, number: int) -> None:
        """Block in the native event's ``synchronize``, which sleeps and frees the GIL.

        Raises:
            CaptureOpenError: this thread has a graph capture open; other threads wait
                until it is closed.
        """
        while self.completed < number:
            issued = self._wait_for_issue(number)
            if issued is None:
                continue
            try:
                issued.end.synchronize()
            except Exception as error:
                self.device.lose(error)
                raise self.device.lost_error() from error
            finally:
                self._let_go(issued)
            self._pass(number)

    def _wait_for_issue(self, number: int) -> Issued | None:
        changed = self.device.changed
        with changed:
            while self.completed < number:
                self._check_reachable(number)
                self.device.check_not_capturing("wait for a device")
                issued = None if self.device.is_capturing else self._hold(number)
                if issued is not None:
                    return issued
                changed.wait()
        return None

    def _check_reachable(self, number: int) -> None:
        if self.device.lost is not None:
            raise self.device.lost_error()
        if (self.is_closed or self.device.is_closed) and self.completed < number:
            raise self._unfinished(number)

    # Issuing --------------------------------------------------------------

    def _check_usable(self) -> None:
        super()._check_usable()
        self.device.check_not_capturing("put work on a stream")

    def _issue(self, operation: Operation) -> None:
        if self.device.issuer is not None:
            self.device.issuer.put(partial(self._issue_now, operation))
            self._was_entered = False
            return
        inherits = operation.inherited_failure() is not None
        self._issue_now(operation)
        self._was_entered = False
        error = operation.launch.error
        interrupt = error.__cause__ if isinstance(error, LaunchAbortedError) else None
        if isinstance(interrupt, KeyboardInterrupt | SystemExit) and not inherits:
            raise interrupt  # meant for the caller, who ran the function

    def _issue_now(self, operation: Operation) -> None:
        """Make the native calls of one operation: waits, the function's own, the record."""
        if self.is_closed or self.device.lost is not None:
            return  # put before that, on the issuer's queue: it never begins
        issued = Issued(self.device.spare_event())
        error: BaseException | None = None
        try:
            self._wait_natively(operation)
            if operation.fn is not None and operation.launch.failure is None:
                if self._clock is not None:
                    issued.start = self.device.spare_event()
                    issued.start.record(self.native)
                with use_stream(self):
                    self.failures.execute(operation)
            error = operation.launch.error
            issued.end.record(self.native)
            if error is not None and not self.device.is_capturing:
                # A fault of the device that is there to stay shows in every call, also in
                # this query; else the function's error is its own, out of memory say.
                issued.end.query()
        except BaseException as fault:
            # Half issued, also if it was an interrupt: nobody will know when it is done.
            self.device.lose(error or fault)
            if not isinstance(fault, Exception):
                raise
            return
        with self.device.changed:
            operation.native = issued
            self.device.changed.notify_all()
        self._catch_up(operation.number)

    def _wait_natively(self, operation: Operation) -> None:
        for gate in operation.gates:
            other = gate.recorded_on()
            assert isinstance(other, AcceleratorStream)
            issued = other._hold(gate.number)
            if issued is not None:
                self.native.wait_event(issued.end)
                other._let_go(issued)
            elif other.completed < gate.number:  # closed with this still on the issuer's queue
                self.failures.fail(operation, other._unfinished(gate.number))
                operation.gates = ()  # that one will never be complete
                return

    def _catch_up(self, number: int) -> None:
        """Look by ourselves now and then, or memory would be kept for as long as nobody polls.

        Each look finds out about at least half of what is in flight, or that the device is
        truly so far behind; so few looks are enough.
        """
        num_pending = number - self.completed
        if num_pending < self._catch_up_at or self.device.is_capturing:
            return
        for reached in (number - 1, number - num_pending // 2):
            if self._is_done(reached):
                self._pass(reached)
                break
        num_pending = number - self.completed
        self._catch_up_at = num_pending + max(_FEW, num_pending // 2)

    # Completion -----------------------------------------------------------

    def _hold(self, number: int) -> Issued | None:
        """Keep the events of ``number`` from reuse; None if not issued yet, or passed."""
        with self.device.changed:
            if self.completed >= number or not self._in_flight:
                return None
            index = number - self._in_flight[0].number
            if index >= len(self._in_flight):
                return None
            issued: Issued | None = self._in_flight[index].native
            if issued is not None:
                issued.num_holders += 1
            return issued

    def _let_go(self, issued: Issued) -> None:
        with self.device.changed:
            issued.num_holders -= 1

    def _is_done(self, number: int) -> bool:
        """Query one native event; a query that raises loses the device."""
        issued = self._hold(number)
        if issued is None:
            return self.completed >= number
        try:
            return issued.end.query()
        except Exception as error:
            self.device.lose(error)
            return False
        finally:
            self._let_go(issued)

    def _pass(self, number: int) -> None:
        """Move the counter to ``number``, which the device has reached; let memory go."""
        with self.device.changed:
            if self.completed >= number:
                return
            seen_s = time.perf_counter()
            # One by one: the streams that an operation waited for may lead back to this one.
            while self.completed < number:
                operation = self._in_flight[0]
                self._finish(operation, seen_s)
                if self.device.lost is not None:
                    return
                self._retire(operation.number)
                self.completed = operation.number
            self.device.changed.notify_all()

    def _finish(self, operation: Operation, seen_s: float) -> None:
        for gate in operation.gates:
            other = gate.recorded_on()
            assert isinstance(other, AcceleratorStream)
            other._pass(gate.number)
        issued: Issued = operation.native
        if self._clock is not None and issued.start is not None:
            try:
                start_s, end_s = self._clock.measure(
                    issued.start, issued.end, issued.issued_s, seen_s
                )
                issued.end = self._clock.roll(issued.end, end_s)
                self._report_span(operation, start_s, end_s)
            except Exception as error:  # the driver's, or a monitor's
                self.device.lose(error)
        self.device.give_back(issued)

    # Lifetime -------------------------------------------------------------

    def finish(self) -> None:
        """Block until the device has done what was issued; drop what was not.

        Issued work cannot be taken back, and its memory must not be freed under it.
        """
        with self.device.changed:
            last = max((op.number for op in self._in_flight if op.native), default=0)
        if last and self.device.lost is None:
            try:
                with allow_blocking("closing a device stream"):
                    self.native.synchronize()
                self._pass(last)
            except Exception as error:
                self.device.lose(error)
        with self.device.changed:
            self._retire(self._issued)
            self.device.changed.notify_all()
        self.device.native.give_back(self.native)
        self.failures.report_unseen()

    def _start_clock(self) -> DeviceClock:
        anchor = self.device.native.new_event()
        anchor.record(self.native)
        with allow_blocking("opening a device stream"):
            anchor.synchronize()
        return DeviceClock(anchor)

    # Being current --------------------------------------------------------

    def wait_event(self, event: Event) -> None:
        """Let work put on this stream from now on run after ``event``; see ``Stream``.

        While this stream is current, torch calls outside of launches wait as well.
        """
        super().wait_event(event)
        if self._num_entered:
            self._wait_now()

    def wait_stream(self, other: Stream) -> None:
        """Let work put here from now on run after all on ``other``, like ``wait_event``."""
        super().wait_stream(other)
        if self._num_entered:
            self._wait_now()

    def _wait_for(self, launches: tuple[Launch[Any], ...]) -> None:
        for launch in launches:
            super().wait_event(launch.event)  # the launch that takes them carries the waits

    def _wait_now(self) -> None:
        # Left to the next launch, the waits would come behind plain torch calls of the block.
        device = self.device
        if self._gates and not (device.is_capturing or device.is_closed or device.lost):
            self._put(self._operation("wait", None))

    def _has_loose_work(self) -> bool:
        return self._num_entered > 0 or self._was_entered

    def _is_on_issuer(self) -> bool:
        return self.device.issuer is not None and self.device.issuer.is_current

    def _enter_native(self) -> tuple[torch.Stream, ...]:
        is_loose = not self._is_on_issuer()
        if is_loose:
            self._wait_now()
        here = torch.accelerator.current_stream()
        index = self.device.torch_device.index
        there = here if here.device_index == index else torch.accelerator.current_stream(index)
        torch.accelerator.set_stream(self.native)
        self._num_entered += is_loose
        # Setting a stream makes its device current too, so the caller's own comes last.
        return (there,) if there is here else (there, here)

    def _exit_native(self, former: tuple[torch.Stream, ...]) -> None:
        for stream in former:
            torch.accelerator.set_stream(stream)
        if not self._is_on_issuer():
            self._num_entered -= 1
            self._was_entered = True
