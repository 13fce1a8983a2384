"""Running a program in virtual time."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from aio_sched.testing.observers import LoopObserver
from aio_sched.testing.strategies import Order
from aio_sched.testing.virtual_loop import VirtualLoop

__all__ = ["virtual_run"]

T = TypeVar("T")


def virtual_run(
    main: Coroutine[Any, Any, T],
    *,
    seed: int = 0,
    shuffle: bool = True,
    max_steps: int = 200_000,
    strategy: Order | None = None,
    observers: Sequence[LoopObserver] = (),
) -> T:
    """Run ``main`` on a new ``VirtualLoop``, like ``asyncio.run``, and close it.

    Args:
        main: what to run.
        seed: see ``VirtualLoop``.
        shuffle: see ``VirtualLoop``.
        max_steps: see ``VirtualLoop``.
        strategy: see ``VirtualLoop``.
        observers: told of all callbacks, from the first one on.

    Raises:
        DeadlockError: nothing could ever run again.
        LivelockError: it did not end within ``max_steps`` turns.
        Exception: what ``main`` raised.
    """

    def make_loop() -> VirtualLoop:
        loop = VirtualLoop(seed, shuffle, max_steps, strategy)
        for observer in observers:
            loop.add_observer(observer)
        return loop

    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(main)
