"""The batches of a virtual loop: which of the ready task steps run, and in which order."""

import asyncio
from collections import Counter, deque
from typing import Any

from aio_sched.testing.strategies import Choice, FifoOrder, Order

__all__ = ["ReadySteps"]

# The callables by which C tasks, and Python ones, are resumed; others of a task's methods
# (``cancel``) are callbacks like any other.
_STEPS = frozenset(
    {"TaskStepMethWrapper", "task_wakeup", "__step", "__wakeup", "TaskWakeupMethWrapper"}
)
_FIFO = FifoOrder()


class ReadySteps:
    """Puts the task steps of each turn into the order that a strategy chooses.

    Attributes:
        choices: what it chose, for each turn that had a task step.
        held: steps that are put off to the next turn.
        num_steps: task steps that ran so far.
        num_runs: steps of each task, by name, counted while ``is_counting``.
    """

    def __init__(self, order: Order) -> None:
        self.choices: list[Choice] = []
        self.held: list[asyncio.Handle] = []
        self.num_steps = 0
        self.num_runs: Counter[str] = Counter()
        self.is_counting = False
        self._order = order

    def arrange(self, ready: "deque[asyncio.Handle]") -> None:
        """Rearrange ``ready`` in place; callbacks keep their places."""
        if self.held:
            ready.extendleft(reversed(self.held))
            self.held = []
        handles = list(ready)
        tasks = [_task_of(handle) for handle in handles]
        steps = [handle for handle, task in zip(handles, tasks, strict=True) if task]
        if not steps:
            return
        candidates = [task for task in tasks if task]
        choice = self._choose(candidates)
        chosen = range(len(steps)) if choice is None else choice
        self.num_steps += len(chosen)
        if self.is_counting:
            self.num_runs.update(candidates[place].get_name() for place in chosen)
        if choice is None:
            return
        self.held = [step for place, step in enumerate(steps) if place not in choice]
        self._rearrange(ready, tasks, [steps[place] for place in choice])

    def _choose(self, tasks: list[asyncio.Task[Any]]) -> Choice:
        order, self._order = self._order, _FIFO  # if it fails, the clean-up needs no strategy
        choice = order.choose(tasks)
        if choice == tuple(range(len(tasks))):
            choice = None
        if choice is not None and not _is_valid(choice, len(tasks)):
            raise ValueError(
                f"{order!r} chose {choice} of {len(tasks)} ready steps; give each "
                "position once at most, and at least one"
            )
        self._order = order
        self.choices.append(choice)
        return choice

    def _rearrange(
        self,
        ready: "deque[asyncio.Handle]",
        tasks: list[asyncio.Task[Any] | None],
        chosen: list[asyncio.Handle],
    ) -> None:
        handles = list(ready)
        ready.clear()
        remaining = iter(chosen)
        for handle, task in zip(handles, tasks, strict=True):
            if task is None:
                ready.append(handle)
            elif (step := next(remaining, None)) is not None:
                ready.append(step)


def _is_valid(choice: tuple[int, ...], num_steps: int) -> bool:
    return (
        bool(choice)
        and len(set(choice)) == len(choice)
        and 0 <= min(choice) <= max(choice) < num_steps
    )


def _task_of(handle: asyncio.Handle) -> asyncio.Task[Any] | None:
    """Return the task if the handle is a step of one."""
    callback: Any = handle._callback  # type: ignore[attr-defined]  # private; None once cancelled
    task = getattr(callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        return None
    name = getattr(callback, "__name__", None) or type(callback).__name__
    return task if name in _STEPS else None
