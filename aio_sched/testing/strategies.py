"""In which order the task steps run that are ready at one moment.

asyncio runs them first in, first out, and programs come to rely on it unknowingly. An
order decides otherwise, in a way that can be repeated. Callbacks that are no task steps
stay as they are.
"""

import asyncio
import random
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Choice", "DelayOne", "FifoOrder", "Order", "PctOrder", "RandomOrder", "Replay"]

Task = asyncio.Task[Any]

#: Which of the ready steps run now, and in which order; None: all, as they came.
Choice = tuple[int, ...] | None


class Order(Protocol):
    """Decides for one run of one loop; make a new one for each run."""

    def choose(self, tasks: Sequence[Task]) -> Choice:
        """Choose among the tasks that have a step ready: at least one, earliest first.

        Returns:
            Positions in ``tasks``, at least one. What is left out comes first in the
            next turn, before what becomes ready until then.
        """


class FifoOrder:
    """First in, first out, as asyncio does."""

    def choose(self, tasks: Sequence[Task]) -> Choice:
        """Change nothing."""
        return None


class RandomOrder:
    """Every order of the ready steps is equally likely."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def choose(self, tasks: Sequence[Task]) -> Choice:
        """Shuffle."""
        if len(tasks) == 1:
            return None
        places = list(range(len(tasks)))
        self._random.shuffle(places)
        return tuple(places)


class PctOrder:
    """Random priorities, and a few moments at which the running task loses its own.

    After "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs": a bug
    that needs ``depth`` ordering constraints is found, in a run of n tasks and k steps,
    with a probability of at least 1 / (n * k ** (depth - 1)).

    Args:
        seed: of priorities and moments.
        depth: number of ordering constraints; 1 has no moments.
        steps: about how many task steps a run has.
        patience: steps that a task may make in a row while others wait, before it goes
            behind all of them; otherwise one that polls would run for ever.

    Raises:
        ValueError: a number is too small.
    """

    def __init__(self, seed: int, depth: int = 3, steps: int = 1000, patience: int = 50) -> None:
        if depth < 1 or steps < 1 or patience < 1:
            raise ValueError(
                f"depth={depth}, steps={steps} and patience={patience} must be at least 1"
            )
        self._random = random.Random(seed)
        self._patience = patience
        moments = self._random.sample(range(steps), min(depth - 1, steps))
        self._moments = frozenset(moments)
        self._priorities: weakref.WeakKeyDictionary[Task, float] = weakref.WeakKeyDictionary()
        self._num_steps = 0
        self._lowest = 0.0
        self._last: weakref.ref[Task] | None = None
        self._in_a_row = 0

    def choose(self, tasks: Sequence[Task]) -> Choice:
        """Choose the one with the highest priority."""
        best = self._best(tasks)
        if self._num_steps in self._moments or self._is_greedy(tasks[best], len(tasks)):
            self._demote(tasks[best])
            best = self._best(tasks)
        self._num_steps += 1
        return (best,)

    def _best(self, tasks: Sequence[Task]) -> int:
        return max(range(len(tasks)), key=lambda place: self._priority(tasks[place]))

    def _priority(self, task: Task) -> float:
        priority = self._priorities.get(task)
        if priority is None:
            priority = self._priorities[task] = self._random.random()
        return priority

    def _demote(self, task: Task) -> None:
        self._lowest -= 1.0
        self._priorities[task] = self._lowest
        self._in_a_row = 0

    def _is_greedy(self, task: Task, num_ready: int) -> bool:
        is_same = self._last is not None and self._last() is task
        self._in_a_row = self._in_a_row + 1 if is_same and num_ready > 1 else 0
        self._last = weakref.ref(task)
        return self._in_a_row >= self._patience


class DelayOne:
    """First in, first out, but for one task step that is put off.

    Args:
        index: which one, counted from 0 in the order in which steps become ready.
        turns: for how many turns of the loop; None: until no other step is ready.

    Raises:
        ValueError: a number is too small.
    """

    def __init__(self, index: int, turns: int | None = 1) -> None:
        if index < 0 or (turns is not None and turns < 1):
            raise ValueError(f"index={index} must not be negative, and turns={turns} at least 1")
        self._index = index
        self._turns_left = turns
        self._num_seen = 0
        self._delayed: weakref.ref[Task] | None = None

    def choose(self, tasks: Sequence[Task]) -> Choice:
        """Leave the one out while its time has not come."""
        place = self._place_of_delayed(tasks)
        if place is None:
            return None
        if len(tasks) == 1 or self._turns_left == 0:
            self._delayed = None
            return None
        if self._turns_left is not None:
            self._turns_left -= 1
        return tuple(other for other in range(len(tasks)) if other != place)

    def _place_of_delayed(self, tasks: Sequence[Task]) -> int | None:
        """Find the delayed step: it was held back and comes first, or is among the new ones."""
        num_held = int(self._delayed is not None)
        first, self._num_seen = self._num_seen, self._num_seen + len(tasks) - num_held
        if num_held:
            return 0
        if not first <= self._index < self._num_seen:
            return None
        self._delayed = weakref.ref(tasks[self._index - first])
        return self._index - first


class Replay:
    """Makes the choices of an earlier run again; first in, first out after the last one.

    A choice that does not fit, because an earlier one was changed, counts as None.

    Args:
        choices: ``VirtualLoop.choices`` of that run, or some of them replaced by None.
    """

    def __init__(self, choices: Sequence[Choice]) -> None:
        self._choices = iter(tuple(choices))

    def choose(self, tasks: Sequence[Task]) -> Choice:
        """Choose as recorded."""
        choice = next(self._choices, None)
        if choice is None or max(choice) >= len(tasks):
            return None
        return choice
