"""The CPU device: one FIFO worker thread per stream, truly concurrent.

torch's own CPU streams are no-ops (``query`` is always true), so tests on them
pass vacuously. Here a launch runs on the stream's thread, a device-side wait
blocks that thread, and races between streams are real.
"""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

import torch

from streams.current import use_stream
from streams.device import Capabilities, Device, Platform
from streams.errors import DeviceClosedError, DeviceLostError
from streams.launch import Operation
from streams.lifetime import close_at_exit, forget
from streams.stream import Stream

__all__ = ["CpuDevice", "CpuStream"]


class CpuStream(Stream):
    """A stream whose worker thread runs the launches and advances the counter."""

    notifies = True

    def __init__(self, device: "CpuDevice", name: str, priority: int) -> None:
        super().__init__(device, name, priority)
        self._queue: SimpleQueue[Operation | None] = SimpleQueue()
        # Guards completed, _callbacks and _num_blocked; is notified at each advance
        # that somebody blocks for.
        self._advanced = threading.Condition(threading.Lock())
        self._callbacks: list[tuple[int, Callable[[], object]]] = []
        self._num_blocked = 0
        self._threads = device.threads
        # Not a daemon: a daemon that runs torch ops at exit aborts the process.
        self._worker = threading.Thread(
            target=self._work, name=f"aio-sched-cpu-{name}", daemon=False
        )
        self._worker.start()

    def advance(self, number: int) -> int:
        """Return the counter; raise if it will never reach ``number``."""
        if self.completed < number:
            self._check_reachable(number)
        return self.completed

    def block_until(self, number: int) -> None:
        """Block this thread on the worker's condition variable."""
        if self.completed >= number:
            return
        with self._advanced:
            self._num_blocked += 1
            try:
                while self.completed < number:
                    self._check_reachable(number)
                    self._advanced.wait()
            finally:
                self._num_blocked -= 1

    def notify_at(self, number: int, callback: Callable[[], object]) -> None:
        """Call ``callback`` from the worker once ``number`` is done."""
        with self._advanced:
            if self.completed < number and not self._is_dead:
                self._callbacks.append((number, callback))
                return
        callback()

    def stop(self) -> None:
        """Let the running operation end, run no other; wake whoever waits."""
        self._queue.put(None)
        self.wake_all()

    def wake_all(self) -> None:
        """Make every waiter look again: the device is closed or lost."""
        with self._advanced:
            callbacks, self._callbacks = self._callbacks, []
            self._advanced.notify_all()
        for _, callback in callbacks:
            callback()

    def join(self) -> None:
        """Wait for the worker to end, then drop what it left in the queue."""
        if self._worker is not threading.current_thread():
            self._worker.join()
        self._retire(self._issued)
        self.failures.report_unseen()

    def renew_lock(self) -> None:
        """In a forked child: forget that the worker may have held the lock."""
        self._advanced = threading.Condition(threading.Lock())

    @property
    def _is_dead(self) -> bool:
        return self.is_closed or self.device.is_closed or self.device.lost is not None

    def _check_reachable(self, number: int) -> None:
        if self.device.lost is not None:
            raise self.device.lost_error()
        if self._is_dead and self.completed < number:
            raise self._unfinished(number)

    def _issue(self, operation: Operation) -> None:
        self._queue.put(operation)

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        with use_stream(self):
            while (operation := self._queue.get()) is not None and not self._is_dead:
                try:
                    self._run(operation)
                except BaseException as error:  # a monitor's or a callback's, or ours
                    self.device.lose(error)  # waiters would hang if only this thread ended
                del operation

    def _run(self, operation: Operation) -> None:
        start_s = time.perf_counter()
        try:
            for gate in operation.gates:
                gate.recorded_on().block_until(gate.number)
        except (DeviceClosedError, DeviceLostError) as error:
            if self._is_dead:
                return  # this operation never runs, and its waiters are told so
            # Only the gate's stream was closed: what waits for it fails, this stream goes on.
            self.failures.fail(operation, error)
            self._finish(operation, start_s, start_s)
            return
        start_s = time.perf_counter()
        self.failures.execute(operation)
        self._finish(operation, start_s, time.perf_counter())

    def _finish(self, operation: Operation, start_s: float, end_s: float) -> None:
        if operation.fn is not None:
            self._report_span(operation, start_s, end_s)
        self._retire(operation.number)
        for callback in self._step_counter(operation.number):
            callback()

    def _step_counter(self, number: int) -> list[Callable[[], object]]:
        with self._advanced:
            if self.device.lost is not None:
                return []  # a lost device completes nothing, also not what was running
            self.completed = number
            if self._num_blocked:
                self._advanced.notify_all()
            if not self._callbacks:
                return []
            due = [callback for at, callback in self._callbacks if at <= number]
            self._callbacks = [entry for entry in self._callbacks if entry[0] > number]
        return due


class CpuDevice(Device):
    """Threads as a device; see the module's text.

    Args:
        threads: torch threads per worker.
    """

    def __init__(self, *, threads: int = 1) -> None:
        super().__init__(
            "cpu",
            Platform.CPU,
            Capabilities(private_d2h=True, device_timing=True),
            torch.device("cpu"),
        )
        self.threads = threads
        close_at_exit(self)

    def _open_stream(self, name: str, priority: int) -> CpuStream:
        return CpuStream(self, name, priority)

    def _on_lost(self) -> None:
        for stream in self._cpu_streams():
            stream.wake_all()

    def _close_stream(self, stream: Stream) -> None:
        assert isinstance(stream, CpuStream)
        stream.stop()
        stream.join()

    def _close(self) -> None:
        forget(self)
        for stream in self._cpu_streams():
            stream.stop()
        for stream in self._cpu_streams():
            stream.join()

    def _cpu_streams(self) -> list[CpuStream]:
        return [s for s in self._streams.values() if isinstance(s, CpuStream)]

    def disown(self) -> None:
        """In a forked child: the workers exist in the parent only."""
        self._closed_because = "its worker threads stayed in the parent of a fork"
        for stream in self._cpu_streams():
            stream.renew_lock()
