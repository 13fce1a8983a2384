"""The order of ready task steps: chosen by a strategy, repeatable, callbacks untouched."""

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from aio_sched.testing import (
    Choice,
    DelayOne,
    FifoOrder,
    Order,
    PctOrder,
    RandomOrder,
    Replay,
    VirtualLoop,
    virtual_run,
)

_NAMES = "abcde"


async def _race(rounds: int = 3) -> list[str]:
    """Five tasks note their turns; by themselves they alternate."""
    notes: list[str] = []

    async def racer(name: str) -> None:
        for _ in range(rounds):
            notes.append(name)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for name in _NAMES:
            group.create_task(racer(name))
    return notes


async def _lose_update() -> bool:
    """Two tasks add one each; whether one is lost depends on who goes first."""
    total = 0
    seen = asyncio.Event()

    async def adder() -> None:
        nonlocal total
        read = total
        await seen.wait()
        total = read + 1

    async def opener() -> None:
        seen.set()

    async def late_adder() -> None:
        nonlocal total
        await asyncio.sleep(0)
        total += 1

    async with asyncio.TaskGroup() as group:
        for job in (opener, adder, late_adder):
            group.create_task(job())
    return total != 2


async def _choices_of(main: Callable[[], Any]) -> list[Choice]:
    await main()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.choices.copy()


def _run_choices(**options: Any) -> list[Choice]:
    return virtual_run(_choices_of(_race), **options)


def test_fifo_is_what_asyncio_does() -> None:
    """Without shuffling the tasks alternate, and nothing was chosen."""
    assert virtual_run(_race(), shuffle=False) == asyncio.run(_race()) == [*_NAMES * 3]
    assert set(_run_choices(shuffle=False)) == {None}


def test_seeds_differ_and_repeat() -> None:
    """One seed gives one order, choices included; many seeds give many."""
    orders = {"".join(virtual_run(_race(), seed=seed)) for seed in range(20)}
    assert len(orders) > 15
    assert virtual_run(_race(), seed=7) == virtual_run(_race(), seed=7)
    assert _run_choices(seed=7) == _run_choices(seed=7)
    assert _run_choices(seed=7) != _run_choices(seed=8)


def test_lost_update_shows_in_some_seeds_and_never_in_fifo_order() -> None:
    """A bug that depends on who goes first hides behind asyncio's order."""
    assert not virtual_run(_lose_update(), shuffle=False)
    found = [virtual_run(_lose_update(), seed=seed) for seed in range(50)]
    assert 5 < sum(found) < 45


def test_callbacks_stay_in_order() -> None:
    """Callbacks are called as they were posted, whatever the tasks around them do."""

    async def main() -> list[int]:
        called: list[int] = []
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                loop.call_soon(called.append, number)
                group.create_task(asyncio.sleep(0))
        return called

    for seed in range(10):
        assert virtual_run(main(), seed=seed) == [*range(20)]


def test_cancel_as_a_callback_is_no_task_step() -> None:
    """A task's other methods may be callbacks; those are not shuffled."""

    async def main() -> list[Choice]:
        task = asyncio.create_task(asyncio.sleep(9))
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.wait([task])
        assert task.cancelled()
        return await _choices_of(_nothing)

    async def _nothing() -> None:
        pass

    class Count(FifoOrder):
        most = 0

        def choose(self, tasks: Any) -> Choice:
            self.most = max(self.most, len(tasks))
            return None

    count = Count()
    virtual_run(main(), strategy=count)
    assert count.most == 1


def test_replay_repeats_a_run() -> None:
    """Recorded choices give the same order; changed ones give another, and still end."""
    recorded = _run_choices(seed=5)
    again = virtual_run(_race(), strategy=Replay(recorded))
    assert again == virtual_run(_race(), seed=5)
    restored: list[Choice] = [None for _ in recorded]
    assert virtual_run(_race(), strategy=Replay(restored)) == [*_NAMES * 3]
    assert virtual_run(_race(), strategy=Replay(recorded[:2]))
    assert virtual_run(_race(), strategy=Replay([(9, 8)] * 100)) == [*_NAMES * 3]


def test_replay_repeats_held_steps() -> None:
    """Choices that put steps off can be made again, too."""
    recorded = virtual_run(_choices_of(_race), strategy=PctOrder(3, depth=3, steps=15))
    again = virtual_run(_choices_of(_race), strategy=Replay(recorded))
    assert again == recorded
    assert any(choice is not None and len(choice) == 1 for choice in recorded)


def test_pct_runs_one_task_at_a_time() -> None:
    """With priorities and no change of them, each task runs to its end before the next."""
    notes = virtual_run(_race(), strategy=PctOrder(1, depth=1))
    assert sorted(notes) == sorted(_NAMES * 3)
    assert [notes[at : at + 3] for at in range(0, 15, 3)] == [[name] * 3 for name in notes[::3]]


def test_pct_changes_priorities_at_depth_minus_one_moments() -> None:
    """Each change point interrupts at most one task."""
    for seed in range(30):
        notes = virtual_run(_race(10), strategy=PctOrder(seed, depth=2, steps=50))
        switches = sum(one != other for one, other in itertools.pairwise(notes))
        assert switches <= len(_NAMES)


def test_pct_lets_a_poller_starve_nobody() -> None:
    """Whoever runs on and on while others wait goes behind them."""

    async def main() -> None:
        flag = False

        async def poller() -> None:
            while not flag:  # noqa: ASYNC110 - polling is the point
                await asyncio.sleep(0)

        async def setter() -> None:
            nonlocal flag
            await asyncio.sleep(0)
            flag = True

        async with asyncio.TaskGroup() as group:
            group.create_task(poller())
            group.create_task(poller())
            group.create_task(setter())

    for seed in range(20):
        virtual_run(main(), strategy=PctOrder(seed, depth=1, patience=20), max_steps=1000)


def test_delay_one_puts_one_step_off() -> None:
    """Of the five tasks the third one's first step comes a turn late."""
    assert virtual_run(_race(1), strategy=DelayOne(3)) == [*"abdec"]
    assert virtual_run(_race(2), strategy=DelayOne(3, turns=1))[:5] == [*"abdec"]
    late = virtual_run(_race(2), strategy=DelayOne(3, turns=None))
    assert late == [*"abdeabdecc"]
    assert virtual_run(_race(2), strategy=DelayOne(1000)) == [*_NAMES * 2]


def test_each_delay_is_another_run() -> None:
    """Putting off the steps one by one reaches every step, and loses none."""
    runs = {"".join(virtual_run(_race(2), strategy=DelayOne(index))) for index in range(12)}
    assert len(runs) > 5
    assert {"".join(sorted(run)) for run in runs} == {"".join(sorted(_NAMES * 2))}


@pytest.mark.parametrize(
    "make",
    [
        lambda: PctOrder(0, depth=0),
        lambda: PctOrder(0, patience=0),
        lambda: DelayOne(-1),
        lambda: DelayOne(0, turns=0),
    ],
)
def test_senseless_strategies_are_refused(make: Callable[[], Order]) -> None:
    """A number that makes no sense is an error where it is given."""
    with pytest.raises(ValueError, match="="):
        make()


@pytest.mark.parametrize("choice", [(), (0, 0), (5,), (-1,)])
def test_choice_that_does_not_fit_is_an_error(choice: tuple[int, ...]) -> None:
    """A strategy of one's own that chooses nonsense is told so."""

    class Bad(FifoOrder):
        def choose(self, tasks: Any) -> Choice:
            return choice if len(tasks) > 1 else None

    with pytest.raises(ValueError, match="position"):
        virtual_run(_race(), strategy=Bad())


_TWICE = """
import asyncio
from aio_sched.testing import virtual_run

async def main():
    notes = []
    async def racer(name):
        try:
            await asyncio.sleep(9)
        finally:
            notes.append(name)
    tasks = {asyncio.create_task(racer(n)) for n in range(40)}
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    print(notes)

virtual_run(main(), seed=3)
virtual_run(main(), shuffle=False)
"""


def test_order_does_not_depend_on_addresses() -> None:
    """Sets of tasks are gone through in one order in every process."""
    runs = {
        subprocess.run(
            [sys.executable, "-c", f"junk = [[] for _ in range({size})]\n{_TWICE}"],
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": str(size)},
        ).stdout
        for size in (0, 1001)
    }
    assert len(runs) == 1


def test_random_order_reaches_every_permutation() -> None:
    """No order of the ready steps is left out."""
    order = RandomOrder(0)
    tasks: list[Any] = [None, None, None]
    assert len({order.choose(tasks) for _ in range(200)}) == 6


def test_tasks_are_numbered_by_their_loop() -> None:
    """A task without a name is called the same in every run of a program."""

    async def main() -> list[str]:
        named = asyncio.create_task(asyncio.sleep(0), name="mine")
        plain = asyncio.create_task(asyncio.sleep(0))
        await asyncio.gather(named, plain)
        return [named.get_name(), plain.get_name()]

    assert virtual_run(main()) == virtual_run(main()) == ["mine", "Task-3"]
