"""Rank groups of one process: what all of them do, whatever carries their frames."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented, not re-exported

from aio_sched.parallel import (
    InProcessRanks,
    RankGroup,
    RankGroupClosedError,
    RankLostError,
    distributed,
    open_rank_group,
)
from aio_sched.parallel.links import _HostLink
from aio_sched.parallel.meeting_place import MeetingPlace
from aio_sched.parallel.threads import start_thread
from aio_sched.testing import virtual_run
from tests.aio_sched.parallel.conformance import CONFORMANCE, SIZE, Rule, begun, outcome
from tests.aio_sched.parallel.rank_processes import free_address

_NUM_SEEDS = 20
Program = Callable[[RankGroup], Awaitable[Any]]


@asynccontextmanager
async def gloo_ranks(size: int = SIZE) -> AsyncIterator[list[RankGroup]]:
    """Ranks over real sockets, all of them in this loop: none blocks it, so that they can be."""
    address = free_address()
    groups = await asyncio.gather(
        *(
            open_rank_group(rank=rank, size=size, address=address, timeout_s=5.0)
            for rank in range(size)
        )
    )
    try:
        yield list(groups)
    finally:
        await asyncio.gather(*(group.aclose() for group in groups))


async def _run(groups: list[RankGroup], program: Program) -> Any:
    results = await asyncio.gather(*(program(group) for group in groups))
    return json.loads(json.dumps(results))


def _on_virtual(program: Program) -> Any:
    async def main() -> Any:
        return await _run(list(InProcessRanks(SIZE).groups), program)

    results = [virtual_run(main(), seed=seed) for seed in range(_NUM_SEEDS)]
    assert all(result == results[0] for result in results)
    return results[0]


def _on_gloo(program: Program) -> Any:
    async def main() -> Any:
        async with gloo_ranks() as groups:
            return await _run(groups, program)

    return asyncio.run(main())


TRANSPORTS = pytest.mark.parametrize("transport", [_on_virtual, _on_gloo])


@TRANSPORTS
@pytest.mark.parametrize("rule", CONFORMANCE, ids=lambda rule: rule.name)
def test_group_keeps_rule(transport: Callable[[Program], Any], rule: Rule) -> None:
    """Every kind of group gives each rank what the rule says."""
    assert transport(rule.program) == rule.expected


@TRANSPORTS
def test_a_rank_that_leaves_is_named_by_the_others(transport: Callable[[Program], Any]) -> None:
    """An exchange to which a rank does not come, because it left, fails for all others."""

    async def program(group: RankGroup) -> Any:
        await group.gather_info("usual", [0])
        if group.rank == 2:
            await group.aclose()
        said = await outcome(group.gather_info("usual", [1]))
        return [said, await outcome(group.wait_for_work())]

    results = transport(program)
    assert results[:2] == [[["RankLostError", 2], ["RankGroupClosedError"]]] * 2
    assert results[2] == [["RankGroupClosedError"], ["RankGroupClosedError"]]


@TRANSPORTS
@pytest.mark.parametrize("leaver", [0, 2])
def test_nobody_waits_at_a_rebuild_for_a_rank_that_left(
    transport: Callable[[Program], Any], leaver: int
) -> None:
    """The others go on as soon as all of them have come, whoever carried the bell."""

    async def program(group: RankGroup) -> Any:
        await group.gather_info("usual", [0])
        if group.rank == leaver:
            return await group.aclose()
        async with asyncio.timeout(20.0):
            await group.rebuild(timeout=50.0)
        return await group.gather_info("usual", [group.epoch])

    results = transport(program)
    assert results.pop(leaver) is None
    assert results == [[[1], [1]]] * 2


@TRANSPORTS
def test_a_group_that_was_closed_wakes_its_sleeper(transport: Callable[[Program], Any]) -> None:
    """Whoever sleeps in a group that is closed is told so at once."""

    async def program(group: RankGroup) -> Any:
        asleep = await begun(outcome(group.wait_for_work()))
        await group.aclose()
        return [await asleep, await outcome(group.gather_info("usual", [1]))]

    assert transport(program) == [[["RankGroupClosedError"]] * 2] * SIZE


@TRANSPORTS
def test_closing_fails_ones_own_exchange(transport: Callable[[Program], Any]) -> None:
    """Whoever waits for the other ranks in a group that is closed is told so at once."""

    async def program(group: RankGroup) -> Any:
        if group.rank != 0:
            return None
        waiting = await begun(outcome(group.gather_info("usual", [1])))
        await group.aclose()
        return await waiting

    assert transport(program)[0] == ["RankGroupClosedError"]


def test_a_rank_cancelled_while_it_looks_who_is_missing_must_rebuild(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection is gone by then: the group says that it failed, and goes on after that."""

    async def main() -> None:
        async with gloo_ranks(1) as (group,):
            task = asyncio.ensure_future(group.gather_info("usual", [0]))
            with monkeypatch.context() as patch:
                patch.setattr(_HostLink, "finish", _broken)
                patch.setattr(MeetingPlace, "say_here", lambda *_: task.cancel())
                await asyncio.wait([task])
            assert task.cancelled()
            with pytest.raises(RankGroupClosedError, match="connection reset; rebuild"):
                await group.gather_info("usual", [0])
            await group.rebuild()
            assert await group.gather_info("usual", [0]) == ((0,),)

    asyncio.run(main())


def _broken(*_: object) -> None:
    raise RuntimeError("connection reset")


def test_a_bell_heard_by_a_sleeper_who_is_cancelled_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread has heard it, and the cancellation comes before the sleeper wakes."""

    async def main() -> None:
        async with gloo_ranks(2) as (ringer, sleeper):
            asleep = asyncio.ensure_future(sleeper.wait_for_work())

            def start(*args: Any) -> Any:
                heard = start_thread(*args)
                heard.add_done_callback(lambda _: asleep.cancel())
                return heard

            with monkeypatch.context() as patch:
                patch.setattr(distributed, "start_thread", start)
                await asyncio.sleep(0)
            ringing = await begun(ringer.wait_for_work())
            ringer.ring()
            await ringing
            await asyncio.wait([asleep])
            assert asleep.cancelled()
            await sleeper.wait_for_work()

    asyncio.run(main())


def test_bells_are_taken_off_the_table() -> None:
    """Ranks that fall asleep over and over leave nothing behind, also when all of them ring."""

    async def main() -> None:
        async with gloo_ranks(2) as groups:
            table = TCPStore(*_address(groups[0]), is_master=False)
            for step in range(60):
                await asyncio.gather(*(group.gather_info("none", [0]) for group in groups))
                for group in groups if step < 30 else []:  # before they sleep
                    group.ring()
                asleep = [await begun(group.wait_for_work()) for group in groups]
                for group in groups[step % 2 :]:
                    group.ring()
                await asyncio.gather(*asleep)
            assert table.num_keys() < 30

    asyncio.run(main())


def _address(group: RankGroup) -> tuple[str, int]:
    assert isinstance(group, distributed.TorchRankGroup)
    return group._place._address


def test_a_rank_left_behind_cannot_split_the_others() -> None:
    """It is told so each time that it asks, and their next rebuild is theirs alone."""

    async def main() -> None:
        async with gloo_ranks() as (first, second, late):
            both = (first, second)
            await asyncio.gather(*(group.rebuild(timeout=0.3) for group in both))
            for _ in range(2):
                with pytest.raises(RankLostError, match="rank 2 of epoch 0 was missing"):
                    await late.rebuild(timeout=0.3)
            await asyncio.gather(*(group.rebuild(timeout=3.0) for group in both))
            rows = await asyncio.gather(*(g.gather_info("usual", [g.epoch]) for g in both))
            assert rows == [((2,), (2,))] * 2

    asyncio.run(main())
