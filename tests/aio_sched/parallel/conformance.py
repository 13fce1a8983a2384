"""What every rank group must do: programs that each rank runs, and what they must come to.

A program leaves its group whole, so that all of them can run one after the other in processes
that were started once. Results are JSON, as they may come from another process.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, overload

from aio_sched.parallel import (
    MAX_VALUES,
    RankBusyError,
    RankGroup,
    RankGroupClosedError,
    RankLostError,
    RankMismatchError,
)

__all__ = ["CONFORMANCE", "SIZE", "Rule", "begun", "outcome"]

SIZE = 3
_ERRORS = (RankLostError, RankMismatchError, RankBusyError, RankGroupClosedError, ValueError)


class Rule(NamedTuple):
    """A program, and what it must come to.

    Attributes:
        program: run by each rank with its group.
        expected: the result of each rank, by rank.
    """

    program: Callable[[RankGroup], Awaitable[Any]]
    expected: list[Any]

    @property
    def name(self) -> str:
        """The name of its program."""
        return self.program.__name__


async def outcome(result: Awaitable[Any]) -> Any:
    """Return a result, or an error as its type and the ranks that it names."""
    try:
        return await result
    except _ERRORS as error:
        return [type(error).__name__, *getattr(error, "ranks", ())]


async def begun(awaitable: Awaitable[Any]) -> "asyncio.Future[Any]":
    """Return a task of ``awaitable`` that has got to its first suspension."""
    has_begun = asyncio.Event()

    async def run() -> Any:
        has_begun.set()
        return await awaitable

    task = asyncio.create_task(run())
    await has_begun.wait()
    return task


async def gives_all_values_to_all_ranks(group: RankGroup) -> Any:
    """Make exchanges of several kinds and lengths."""
    some = [await group.gather_info("some", [group.rank, -step, 2**62]) for step in range(20)]
    none = await group.gather_info("none", [])
    many = await group.gather_info("many", range(MAX_VALUES))
    return [some[-1], none, [len(values) for values in many]]


async def names_the_rank_with_another_kind(group: RankGroup) -> Any:
    """Let rank 1 take part in something else; then begin anew."""
    kind = "other" if group.rank == 1 else "usual"
    said = await outcome(group.gather_info(kind, [1]))
    after = await outcome(group.gather_info("usual", [1]))
    epoch = group.epoch
    await group.rebuild()
    return [said, after, group.epoch > epoch, await group.gather_info("usual", [group.rank])]


async def names_the_rank_of_another_epoch(group: RankGroup) -> Any:
    """Let rank 2 believe that there was one rebuild more."""
    group.epoch += 1 if group.rank == 2 else 0
    said = await outcome(group.gather_info("usual", [1]))
    await group.rebuild()
    return [said, await group.gather_info("usual", [group.rank])]


async def names_the_rank_with_another_count(group: RankGroup) -> Any:
    """Let rank 0 give a value too many."""
    said = await outcome(group.gather_info("usual", [7] * (2 if group.rank == 0 else 1)))
    await group.rebuild()
    return said


async def fails_for_all_when_one_begins_to_rebuild(group: RankGroup) -> Any:
    """Let rank 2 rebuild while the others want to make an exchange."""
    said = None if group.rank == 2 else await outcome(group.gather_info("usual", [1]))
    await group.rebuild()
    return [said, await group.gather_info("usual", [group.rank])]


class _AsksAgain(Sequence[int]):
    """Values that begin another exchange while they are read for the first one."""

    def __init__(self, group: RankGroup) -> None:
        self.group = group
        self.error: RankBusyError | None = None

    def __len__(self) -> int:
        return 1

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        if index != 0:
            raise IndexError
        again: Coroutine[Any, Any, Any] = self.group.gather_info("second", [1])
        try:
            again.send(None)
        except RankBusyError as error:
            self.error = error
        return self.group.rank


async def has_one_exchange_under_way(group: RankGroup) -> Any:
    """Begin a second exchange before the first has ended."""
    values = _AsksAgain(group)
    rows = await group.gather_info("first", values)
    return [values.error is not None, rows]


async def goes_on_after_a_cancelled_exchange(group: RankGroup) -> Any:
    """Let rank 0 be cancelled in an exchange that the others see to the end."""
    first: Any = None
    if group.rank == 0:
        task = await begun(group.gather_info("first", [0]))
        task.cancel()
        await asyncio.wait([task])
    else:
        for _ in range(20):  # where all share a loop, rank 0 asks again before they come
            await asyncio.sleep(0)
        first = await group.gather_info("first", [group.rank])
    return [first, await group.gather_info("second", [group.rank])]


async def fails_for_all_after_one_was_cancelled_twice(group: RankGroup) -> Any:
    """Let rank 0 be cancelled in an exchange, and in the next one before that could begin."""
    said: list[Any] = []
    for step in range(3):
        if group.rank == 0 and step < 2:
            task = await begun(group.gather_info("step", [step]))
            task.cancel()
            await asyncio.wait([task])
        else:
            if step == 0:
                for _ in range(20):  # rank 0 asks three times before they come
                    await asyncio.sleep(0)
            said.append(await outcome(group.gather_info("step", [step])))
            if said[-1][0] == "RankMismatchError":
                break
    await group.rebuild()
    return said


async def refuses_bad_arguments_and_stays_whole(group: RankGroup) -> Any:
    """Ask for what no frame can carry."""
    refused = [
        await outcome(group.gather_info("", [1])),
        await outcome(group.gather_info("k" * 25, [1])),
        await outcome(group.gather_info("many", [0] * (MAX_VALUES + 1))),
        await outcome(group.gather_info("large", [2**63])),
        await outcome(group.gather_info("late", [1], timeout=0)),
        await outcome(group.rebuild(timeout=-1)),
    ]
    return [refused, await group.gather_info("usual", [group.rank])]


async def wakes_all_who_sleep_when_one_rings(group: RankGroup) -> Any:
    """Sleep; let rank 1 ring before it sleeps, and once more while it does."""
    await group.gather_info("none", [0])
    if group.rank == 1:
        group.ring()
    await group.wait_for_work()
    await group.gather_info("none", [0])
    asleep = await begun(group.wait_for_work())
    if group.rank == 1:
        group.ring()
    await asleep
    await group.wait_for_work()  # the bell goes on ringing until the next exchange
    return await group.gather_info("awake", [group.rank])


async def leaves_nothing_of_a_sleeper_that_was_cancelled(group: RankGroup) -> Any:
    """Cancel every sleeper, and go on."""
    asleep = await begun(group.wait_for_work())
    asleep.cancel()
    await asyncio.wait([asleep])
    return await group.gather_info("awake", [group.rank])


async def hears_a_bell_that_rang_between_two_sleeps(group: RankGroup) -> Any:
    """Cancel a sleeper and let rank 1 ring before it comes back; two may sleep at once."""
    asleep = await begun(group.wait_for_work())
    asleep.cancel()
    await asyncio.wait([asleep])
    if group.rank == 1:
        group.ring()
    await asyncio.gather(group.wait_for_work(), group.wait_for_work())
    return await group.gather_info("awake", [group.rank])


_ALL = [[0], [1], [2]]
CONFORMANCE = (
    Rule(
        gives_all_values_to_all_ranks,
        [[[[r, -19, 2**62] for r in range(SIZE)], [[], [], []], [MAX_VALUES] * SIZE]] * SIZE,
    ),
    Rule(
        names_the_rank_with_another_kind,
        [[["RankMismatchError", 1], ["RankGroupClosedError"], True, _ALL]] * SIZE,
    ),
    Rule(names_the_rank_of_another_epoch, [[["RankMismatchError", 2], _ALL]] * SIZE),
    Rule(names_the_rank_with_another_count, [["RankMismatchError", 0]] * SIZE),
    Rule(
        fails_for_all_when_one_begins_to_rebuild,
        [[["RankLostError", 2], _ALL]] * 2 + [[None, _ALL]],
    ),
    Rule(has_one_exchange_under_way, [[True, _ALL]] * SIZE),
    Rule(goes_on_after_a_cancelled_exchange, [[None, _ALL]] + [[_ALL, _ALL]] * 2),
    Rule(
        fails_for_all_after_one_was_cancelled_twice,
        [[["RankMismatchError", 0]]] + [[[[0], [0], [0]], ["RankMismatchError", 0]]] * 2,
    ),
    Rule(refuses_bad_arguments_and_stays_whole, [[[["ValueError"]] * 6, _ALL]] * SIZE),
    Rule(wakes_all_who_sleep_when_one_rings, [_ALL] * SIZE),
    Rule(leaves_nothing_of_a_sleeper_that_was_cancelled, [_ALL] * SIZE),
    Rule(hears_a_bell_that_rang_between_two_sleeps, [_ALL] * SIZE),
)
