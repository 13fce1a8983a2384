"""Who caused what in an event loop: the seam for checkers that follow cause and effect."""

import asyncio
import contextvars
import itertools
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from aio_sched.testing.groups import observe_group

if TYPE_CHECKING:
    from aio_sched.testing.virtual_loop import VirtualLoop

__all__ = [
    "LoopObserver",
    "ObservedHandle",
    "ObservedTimer",
    "TaskFactory",
    "VirtualTask",
    "tokens_of",
]

T = TypeVar("T")


class LoopObserver(Protocol):
    """Is told of every callback that a ``VirtualLoop`` is given and runs.

    A task step is a callback whose ``__self__`` is the task. Calls come from the loop's
    thread, and must not ask a task whether it is done. A token is of any type: the loop
    only keeps it.
    """

    def posted(self, callback: Callable[..., object]) -> Any:
        """Somebody schedules ``callback``: a task's step, a future's callback, a timer.

        Returns:
            What ``running`` is given when it runs: what was known here, for example.
        """

    def running(self, token: Any) -> None:
        """The callback that was posted with ``token`` begins."""

    def ran(self) -> None:
        """The callback that began last has returned or raised."""

    def joined(self, task: "asyncio.Task[Any]") -> None:
        """The running code learns, without being called back, that ``task`` has ended.

        It awaited a finished task, or asked one for ``done``, ``result`` or ``exception``, or
        found that a task group is empty. Telling it twice must do no harm.
        """


class _Observed(asyncio.Handle):
    __slots__ = ()
    tokens: Sequence[tuple[LoopObserver, Any]]

    def _run(self) -> None:
        tokens = self.tokens
        for observer, token in tokens:
            observer.running(token)
        try:
            super()._run()
        finally:
            for observer, _ in tokens:
                observer.ran()


class ObservedHandle(_Observed):
    """A callback whose poster and runner are told to observers."""

    __slots__ = ("tokens",)


class ObservedTimer(asyncio.TimerHandle, _Observed):
    """The same for a callback that waits for its time."""

    __slots__ = ("tokens",)


def tokens_of(
    observers: Sequence[LoopObserver], callback: Callable[..., object]
) -> list[tuple[LoopObserver, Any]]:
    """Tell observers that something was posted."""
    return [(observer, observer.posted(callback)) for observer in observers]


class VirtualTask(asyncio.Task[T]):
    """A task whose place in a set depends on its number, not on its address.

    asyncio keeps tasks in sets, and cancels them in the order in which they lie there.
    """

    def __init__(
        self,
        coro: Generator[Any, None, T],
        *,
        loop: "VirtualLoop",
        number: int,
        name: str | None,
        context: contextvars.Context | None,
    ) -> None:
        self._number = number
        self._observers = loop.observers
        super().__init__(coro, loop=loop, name=name or f"Task-{number}", context=context)

    def __hash__(self) -> int:
        return self._number

    def set_name(self, value: object) -> None:
        """Keep the name where there is none: loops of Python 3.13 set a missing one."""
        if value is not None:
            super().set_name(value)

    def add_done_callback(
        self,
        fn: Callable[[Self], object],
        /,
        *,
        context: contextvars.Context | None = None,
    ) -> None:
        """Let observers know of the group whose callback this may be."""
        if self._observers:
            observe_group(fn, self._observers)
        super().add_done_callback(fn, context=context)

    def __await__(self) -> Generator[Any, None, T]:
        self.done()
        return super().__await__()

    def done(self) -> bool:
        """Tell observers who sees that the task has ended."""
        is_done = super().done()
        if is_done:
            for observer in self._observers:
                observer.joined(self)
        return is_done

    def result(self) -> T:
        """Tell observers who takes the result."""
        self.done()
        return super().result()

    def exception(self) -> BaseException | None:
        """Tell observers who takes the exception."""
        self.done()
        return super().exception()


class TaskFactory:
    """Makes the tasks of one ``VirtualLoop``, numbered from 1."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __call__(
        self,
        loop: "VirtualLoop",
        coro: Generator[Any, None, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> "asyncio.Task[T]":
        """Make a task as ``loop.create_task`` asks for it."""
        if any(options.values()):
            raise TypeError(f"a virtual loop makes no tasks with {options}")
        number = next(self._numbers)
        return VirtualTask(coro, loop=loop, number=number, name=name, context=context)
