"""What the launches of one stream raised: kept for whoever asks, logged when nobody did."""

from collections import deque
from types import TracebackType

from streams.errors import LaunchAbortedError
from streams.failure import Failure, drop_locals
from streams.launch import Operation
from streams.log import get_logger

__all__ = ["Failures"]

log = get_logger("streams")

_MOST_KEPT = 256


class Failures:
    """What launches of one stream raised: the latest, for those who wait for their events.

    Args:
        stream: its name, for the log.
    """

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._kept: deque[Failure] = deque()

    def execute(self, operation: Operation) -> None:
        """Call an operation's function, and keep its value or its failure.

        One that takes the value of a failed launch is not called; it fails alike.
        """
        if (cause := operation.inherited_failure()) is not None:
            cause.was_seen = True
            self._keep(operation, cause.error, cause.traceback)
            return
        try:
            operation.launch.set_value(operation.call())
        except Exception as error:  # the launch's owner gets it
            self.fail(operation, error)
        except BaseException as error:
            # A cancellation or exit in here is not one of whoever awaits the launch.
            aborted = LaunchAbortedError(f"{operation} was broken off by {error!r}")
            aborted.__cause__ = error
            self.fail(operation, aborted)

    def fail(self, operation: Operation, error: BaseException) -> None:
        """Keep what an operation raised; its waiters and dependents get the error."""
        error.add_note(f"raised by launch {operation} on device stream {self._stream!r}")
        drop_locals(error)
        # The first frame is the device's own, and holds the operation with its arguments.
        lines = error.__traceback__.tb_next if error.__traceback__ else None
        self._keep(operation, error.with_traceback(lines), lines)

    def raise_first(self, since: int, upto: int) -> None:
        """Raise what the first failed launch in ``(since, upto]`` raised, if any did."""
        for failure in tuple(self._kept):
            if since < failure.number <= upto:
                failure.raise_again()

    def report_unseen(self) -> None:
        """Let go of all of them; log those that nobody has seen."""
        while self._kept:
            self._report(self._kept.popleft())

    def _keep(
        self, operation: Operation, error: BaseException, lines: TracebackType | None
    ) -> None:
        """Keep a failure; one too many is reported if nobody has seen it, and let go."""
        failure = Failure(operation.number, str(operation), error, lines)
        operation.launch.set_failure(failure)
        self._kept.append(failure)
        while len(self._kept) > _MOST_KEPT:
            self._report(self._kept.popleft())

    def _report(self, failure: Failure) -> None:
        if not failure.was_seen:
            log.error(
                "launch_failed_unseen",
                stream=self._stream,
                launch=failure.label,
                error=repr(failure.error),
            )
