"""Who asks a pipeline for something, and who is told: each asker gets one answer."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aio_sched.errors import InboxFullError, SchedulerClosedError
from streams.hazards import handoff

if TYPE_CHECKING:
    from aio_sched.stages import Step

__all__ = ["Inbox"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(eq=False, slots=True)
class _Asked:
    item: Any
    answer: "asyncio.Future[Any]"


class Inbox(Generic[Item, Answer]):
    """Items that wait for a pipeline, and what its steps have taken of them.

    ``prepare`` takes items in the name of its step, ``publish`` answers them, and
    ``Pipeline.failed`` and ``Pipeline.closed`` hand on to ``fail`` and ``close`` what
    went wrong: so every asker is told once, also if prepare fails half-way. For the
    loop's thread only. Its length is the number of items that wait.

    Args:
        wake: called for each item that comes; ``Pipeline.wake``.
        max_waiting: items that may wait; one more is refused. None sets no limit.

    Raises:
        ValueError: ``max_waiting`` is below 1.
    """

    def __init__(self, wake: Callable[[], object], *, max_waiting: int | None = None) -> None:
        if max_waiting is not None and max_waiting < 1:
            raise ValueError(f"max_waiting={max_waiting} lets nothing in; it must be at least 1")
        self.max_waiting = max_waiting
        self._wake = wake
        self._waiting: deque[_Asked] = deque()
        self._taken: dict[Step, list[_Asked]] = {}
        self._is_closed = False
        self._closed_by: BaseException | None = None

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        return f"<Inbox {state}: {len(self)} waiting, {self.num_open - len(self)} taken>"

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def num_open(self) -> int:
        """Items without an answer: those that wait, and those that a step has taken."""
        return len(self._waiting) + sum(map(len, self._taken.values()))

    async def ask(self, item: Item) -> Answer:
        """Queue an item and wait for its answer.

        The item of a cancelled asker is not taken any more; if it was taken, its answer
        is dropped.

        Raises:
            InboxFullError: ``max_waiting`` items wait already.
            SchedulerClosedError: the scheduler takes no more work, or has stopped
                before it took the item.
            Exception: what failed the step that took the item.
        """
        if self._is_closed:
            raise self._closed()
        if self.max_waiting is not None and len(self) >= self.max_waiting:
            raise InboxFullError(
                f"{len(self)} items wait already; ask again later, or raise max_waiting"
            )
        self._wake()  # before the item is queued: it raises if nobody will take it
        asked = _Asked(item, asyncio.get_running_loop().create_future())
        handoff(asked.answer)
        self._waiting.append(asked)
        try:
            answer: Answer = await asked.answer
            return answer
        except asyncio.CancelledError:
            if asked in self._waiting:
                self._waiting.remove(asked)
            raise

    def take(self, step: "Step", limit: int) -> list[Item]:
        """Take the oldest items for a step, at most ``limit``; there may be none.

        Raises:
            ValueError: the limit is below 1.
        """
        if limit < 1:
            raise ValueError(f"limit={limit} takes nothing; it must be at least 1")
        taken = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        for asked in taken:
            handoff(asked.answer)
        if taken:
            self._taken.setdefault(step, []).extend(taken)
        return [asked.item for asked in taken]

    def answer(self, step: "Step", answers: Sequence[Answer] | Any) -> None:
        """Answer what a step has taken, in the order in which it took it.

        Args:
            step: who took the items.
            answers: one for each; the rows of a tensor do.

        Raises:
            ValueError: more or fewer answers than items; nobody is told then, so that
                ``fail`` still can.
        """
        taken = self._taken.get(step, [])
        if len(answers) != len(taken):
            raise ValueError(f"{len(answers)} answers for the {len(taken)} items of {step!r}")
        self._taken.pop(step, None)
        for asked, answer in zip(taken, answers, strict=True):
            if not asked.answer.done():
                asked.answer.set_result(answer)

    def fail(self, step: "Step", error: BaseException) -> None:
        """Raise ``error`` for whose items a step has taken and not answered."""
        _raise_for(self._taken.pop(step, []), error)

    def close(self, error: BaseException | None = None) -> None:
        """Fail everybody who has no answer, and refuse who comes later.

        Args:
            error: what stopped the scheduler, None for an orderly stop.
        """
        self._is_closed, self._closed_by = True, error
        left = [*chain.from_iterable(self._taken.values()), *self._waiting]
        self._taken.clear()
        self._waiting.clear()
        _raise_for(left, self._closed())

    def reopen(self) -> None:
        """Take items again: another scheduler runs the pipeline."""
        self._is_closed, self._closed_by = False, None

    def _closed(self) -> SchedulerClosedError:
        error = SchedulerClosedError("the scheduler has stopped; it takes no more items")
        error.__cause__ = self._closed_by
        return error


def _raise_for(askers: Iterable[_Asked], error: BaseException) -> None:
    for asked in askers:
        if not asked.answer.done():
            asked.answer.set_exception(error)
