"""What an observer of a scheduler is told: the seam for traces and statistics."""

from collections.abc import Iterable

from streams.log import get_logger

__all__ = ["Monitors", "SchedulerMonitor"]

log = get_logger("monitor")


class SchedulerMonitor:
    """Override what you want to see; every method does nothing by default.

    All calls come from the event loop's thread; times are seconds of
    ``streams.clock.perf_s``.
    """

    def state(self, name: str, now_s: float) -> None:
        """The issuer is, from now on, in ``name``.

        One of ``idle`` (nothing to do), ``room`` (waiting for a place in flight),
        ``prepare``, ``forward``, ``stopped``.
        """

    def stage(self, step: int, stage: str, start_s: float, end_s: float, failed: bool) -> None:
        """A stage coroutine ran, or was suspended, from start to end."""

    def ran(self, step: int, stage: str, start_s: float, end_s: float) -> None:
        """A stage's own code ran on the loop, from a resume to the next suspend."""

    def published(self, step: int, now_s: float) -> None:
        """A step was published, or has failed, and has left the device."""

    def failed(self, step: int, error: BaseException) -> None:
        """A step failed."""


class Monitors(SchedulerMonitor):
    """Several monitors as one; one that raises is logged and dropped.

    Watching must not change what is watched: no step fails for a broken monitor.
    """

    def __init__(self, monitors: Iterable[SchedulerMonitor] = ()) -> None:
        self.all = list(monitors)

    def state(self, name: str, now_s: float) -> None:
        """Tell all."""
        for monitor in self.all:
            try:
                monitor.state(name, now_s)
            except Exception:
                self._drop(monitor)

    def stage(self, step: int, stage: str, start_s: float, end_s: float, failed: bool) -> None:
        """Tell all."""
        for monitor in self.all:
            try:
                monitor.stage(step, stage, start_s, end_s, failed)
            except Exception:
                self._drop(monitor)

    def ran(self, step: int, stage: str, start_s: float, end_s: float) -> None:
        """Tell all."""
        for monitor in self.all:
            try:
                monitor.ran(step, stage, start_s, end_s)
            except Exception:
                self._drop(monitor)

    def published(self, step: int, now_s: float) -> None:
        """Tell all."""
        for monitor in self.all:
            try:
                monitor.published(step, now_s)
            except Exception:
                self._drop(monitor)

    def failed(self, step: int, error: BaseException) -> None:
        """Tell all."""
        for monitor in self.all:
            try:
                monitor.failed(step, error)
            except Exception:
                self._drop(monitor)

    def _drop(self, monitor: SchedulerMonitor) -> None:
        self.all = [other for other in self.all if other is not monitor]
        log.exception("monitor_dropped", monitor=repr(monitor))
