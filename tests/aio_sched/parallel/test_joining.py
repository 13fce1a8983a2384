"""How processes become ranks, and what they are told that cannot."""

import asyncio
from collections.abc import Callable

import pytest

from aio_sched.parallel import (
    RankGroup,
    RankGroupMissingError,
    RankLostError,
    RankMismatchError,
    open_rank_group,
)
from streams import open_device
from tests.aio_sched.parallel.rank_processes import free_address

TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set what torchrun sets, and nothing else of it."""
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)

    def set_up(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_up


async def _open(address: str, rank: int, size: int, **options: float) -> RankGroup:
    return await open_rank_group(rank=rank, size=size, address=address, **options)  # type: ignore[arg-type]  # seconds only


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_ranks_join_by_what_torchrun_sets(environment: Callable[..., None]) -> None:
    """Without arguments the environment says who one is, and where the others are."""
    host, port = free_address().split(":")
    environment(RANK="0", WORLD_SIZE="1", MASTER_ADDR=host, MASTER_PORT=port)
    group = await open_rank_group()
    assert await group.gather_info("alone", [7]) == ((7,),)
    await group.aclose()


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_groups_of_two_names_do_not_meet() -> None:
    """A process may be in several groups at one address."""
    address = free_address()
    names = ("steps", "prefills")
    groups = [await open_rank_group(rank=0, size=1, address=address, name=name) for name in names]
    rows = await asyncio.gather(*(group.gather_info("k", [i]) for i, group in enumerate(groups)))
    assert rows == [((0,),), ((1,),)]
    for group in reversed(groups):
        await group.aclose()


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_ranks_that_expect_another_number_are_named() -> None:
    """Both sides learn that they were started with different world sizes."""
    address = free_address()
    errors = await asyncio.gather(
        _open(address, 0, 2, join_timeout_s=8.0),
        _open(address, 1, 3, join_timeout_s=8.0),
        return_exceptions=True,
    )
    assert [type(error) for error in errors] == [RankMismatchError] * 2
    assert "rank 0 was told of 2 ranks, but rank 1 of 3" in str(errors[0])
    assert "rank 1 was told of 3 ranks, but rank 0 of 2" in str(errors[1])


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_ranks_that_do_not_join_are_named() -> None:
    """Whoever waits for a process that was not started learns which one that is."""
    with pytest.raises(RankLostError, match="rank 1 of 2 did not join") as caught:
        await _open(free_address(), 0, 2, join_timeout_s=0.3)
    assert caught.value.ranks == (1,)


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_rank_that_is_there_twice_is_refused() -> None:
    """The second process with one and the same rank is told so; the first goes on."""
    address = free_address()
    group = await _open(address, 0, 1)
    with pytest.raises(RankMismatchError, match=r"rank 0 .* is here already"):
        await _open(address, 0, 1)
    assert await group.gather_info("alone", [1]) == ((1,),)
    await group.aclose()


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_arguments_that_cannot_be_are_refused(environment: Callable[..., None]) -> None:
    """What is missing or out of range is named before anybody is looked for."""
    with pytest.raises(ValueError, match="has no RANK; start the ranks with torchrun"):
        await open_rank_group()
    environment(RANK="first")
    with pytest.raises(ValueError, match="RANK='first', which is no number"):
        await open_rank_group()
    with pytest.raises(ValueError, match="use 0 <= rank < size"):
        await _open("localhost:1", 2, 2)
    with pytest.raises(ValueError, match="not of the form host:port"):
        await _open("localhost", 0, 1)
    environment(WORLD_SIZE="4")
    with pytest.raises(
        RankMismatchError, match="2 ranks was asked for, and the launcher started 4"
    ):
        await open_rank_group(rank=0, size=2)


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_device_without_collectives_is_refused() -> None:
    """The device's group is for devices that have one; nothing falls back in silence."""
    with open_device("cpu") as device, pytest.raises(RankGroupMissingError, match="takes NCCL"):
        await open_rank_group(rank=0, size=1, address="localhost:1", device=device)


@pytest.mark.gpu
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_device_group_exchanges_through_its_own_memory() -> None:
    """NCCL carries the same frames, from and to tensors of the device."""
    with open_device("auto") as device:
        group = await open_rank_group(rank=0, size=1, address=free_address(), device=device)
        rows = [await group.gather_info("step", [step, -step]) for step in range(50)]
        assert rows == [((step, -step),) for step in range(50)]
        await group.rebuild()
        assert await group.gather_info("step", [1]) == ((1,),)
        await group.aclose()
