"""Task groups for observers: who sees that a group is empty learns that its tasks have ended.

A group counts its tasks in callbacks and wakes its owner in the last one, or not at all if
all have ended before. So most of the tasks hand nothing on by waking somebody, and what
they hand on is the emptiness of the group's set.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aio_sched.testing.observers import LoopObserver

__all__ = ["observe_group"]

Task = asyncio.Task[Any]


class _Members(set[Task]):
    """The tasks of a group; tells observers when somebody finds that there is none left."""

    # Of the class: a copy of a set is made without a constructor, and tells nobody.
    observers: "Sequence[LoopObserver]" = ()
    ended: list[Task]

    def __len__(self) -> int:
        num_left = super().__len__()
        if not num_left:
            for observer in self.observers:
                for task in self.ended:
                    observer.joined(task)
        return num_left

    def discard(self, task: Any) -> None:
        super().discard(task)
        if self.observers:
            self.ended.append(task)

    def remove(self, task: Task) -> None:
        super().remove(task)
        if self.observers:
            self.ended.append(task)


def observe_group(callback: Callable[..., object], observers: "Sequence[LoopObserver]") -> None:
    """Tell observers of the emptiness of the group that ``callback`` counts the tasks of.

    Those of asyncio count in a method, those of anyio in a function within one.
    """
    cells = getattr(callback, "__closure__", None) or ()
    for owner in (getattr(callback, "__self__", None), *(_content(cell) for cell in cells)):
        if type(getattr(owner, "_tasks", None)) is set:
            assert owner is not None, "None has no tasks"
            members = _Members(owner._tasks)
            members.ended, members.observers = [], observers
            owner._tasks = members


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
