"""What is put on a device stream: a function, and the place for its value."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from streams.current import WorkTag
from streams.errors import LaunchNotCompleteError
from streams.event import Event
from streams.failure import Failure

__all__ = ["Launch", "Operation", "launches_in", "substitute"]

T = TypeVar("T")

_MISSING: Any = object()


class Launch(Generic[T]):
    """A function put on a device stream, and the place where its value will be.

    ``await launch`` suspends until the device has finished it and gives the
    function's value, or raises what the function raised. As an argument of a
    later launch it stands for its value; across streams that adds the
    device-side wait.

    Attributes:
        event: the point on the stream's timeline at which it is complete.
        label: the function's name.
    """

    __slots__ = ("__weakref__", "_failure", "_value", "event", "label")

    def __init__(self, event: Event, label: str) -> None:
        self.event = event
        self.label = label
        self._value: T = _MISSING
        self._failure: Failure | None = None

    def __repr__(self) -> str:
        return f"<Launch {self.label!r} {self.event!r}>"

    def __await__(self) -> Generator[Any, Any, T]:
        return self.wait().__await__()

    async def wait(self, timeout: float | None = None) -> T:
        """Suspend until the device has finished, and return the value.

        Args:
            timeout: seconds to wait at most; None waits until cancelled.

        Raises:
            DeadlineError: not finished in time.
            Exception: what the function raised, or what a launch raised whose
                value it takes.
        """
        await self.event.wait(timeout)
        return self._value_for_host()

    @property
    def error(self) -> BaseException | None:
        """What the function raised, as far as is known by now."""
        return None if self._failure is None else self._failure.error

    def query(self) -> bool:
        """Ask, without waiting, whether the device has finished."""
        return self.event.query()

    def result(self) -> T:
        """Return the value of a finished launch, or raise what it raised.

        Raises:
            LaunchNotCompleteError: the device has not finished it yet.
        """
        if not self.event.query():
            raise LaunchNotCompleteError(
                f"launch {self.label!r} is still in flight; await it first"
            )
        return self._value_for_host()

    def issued_value(self) -> T:
        """Return the value that later work on the device may refer to.

        On an accelerator the value (a tensor handle, say) exists from the moment
        of issue, long before its memory holds the result.

        Raises:
            Exception: what the function raised.
        """
        if self._failure is not None:
            self._failure.raise_again()
        if self._value is _MISSING:
            raise LaunchNotCompleteError(
                f"launch {self.label!r} has not been issued yet; await it first"
            )
        return self._value

    def _value_for_host(self) -> T:
        device = self.event.recorded_on().device
        for monitor in device.monitors:
            monitor.on_host_access(device, self, is_write=False)
        return self.issued_value()

    @property
    def failure(self) -> Failure | None:
        """Device only: what ``set_failure`` stored."""
        return self._failure

    def set_value(self, value: T) -> None:
        """Device only: store what the function returned."""
        self._value = value

    def set_failure(self, failure: Failure) -> None:
        """Device only: store what the function raised."""
        self._failure = failure


@dataclass(slots=True, eq=False)
class Operation:
    """One entry of a stream's queue; keeps what the device uses until it is done.

    Then it is released, and keeps no more than its names.

    Attributes:
        number: its place on the stream, from 1.
        fn: None for a bare wait.
        gates: events of other streams that must complete before it runs.
        reads: what the caller declared that it reads, for a hazard checker.
        writes: what the caller declared that it writes.
        takes: launches among its arguments.
    """

    number: int
    label: str
    tag: WorkTag | None
    fn: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    gates: tuple[Event, ...]
    launch: Launch[Any]
    reads: tuple[object, ...] = ()
    writes: tuple[object, ...] = ()
    takes: tuple[Launch[Any], ...] = ()
    native: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.label} #{self.number}" + (f" of {self.tag}" if self.tag else "")

    def release(self) -> None:
        """Let go of all memory: the device has finished, or will never begin.

        Whatever keeps the operation itself for longer keeps only its name.
        """
        self.fn, self.args, self.kwargs = None, (), {}
        self.gates, self.reads, self.writes, self.takes = (), (), (), ()

    def inherited_failure(self) -> Failure | None:
        """Return why a launch failed whose value this operation takes, if one did."""
        return next((taken.failure for taken in self.takes if taken.failure is not None), None)

    def call(self) -> Any:
        """Call the function with launches among its arguments replaced by values."""
        if self.fn is None:
            return None
        args = [substitute(argument) for argument in self.args]
        kwargs = {name: substitute(value) for name, value in self.kwargs.items()}
        return self.fn(*args, **kwargs)


def launches_in(value: Any) -> Iterable[Launch[Any]]:
    """Give the launches among some arguments, also those in tuples, lists and dicts."""
    if isinstance(value, Launch):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from launches_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from launches_in(item)


def substitute(value: Any) -> Any:
    """Rebuild an argument with the value of each launch in its place."""
    if isinstance(value, Launch):
        return value.issued_value()
    if isinstance(value, list):
        return [substitute(item) for item in value]
    if isinstance(value, dict):
        return {key: substitute(item) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [substitute(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
