"""What the guard sees of torch: patched verbs, watched tensors, and nothing left behind."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch.overrides import _get_current_function_mode_stack

from streams.errors import HostBlockedError, TorchModeOpenError
from streams.guard import HostBlockGuard, allow_blocking


@pytest.fixture
def strict() -> HostBlockGuard:
    """A guard that refuses."""
    return HostBlockGuard(strict=True)


@pytest.fixture
def counting() -> HostBlockGuard:
    """A guard that only counts."""
    return HostBlockGuard()


# torch's own verbs ----------------------------------------------------------------


@pytest.fixture
def calls_of_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Replaces what torch.cuda would do, so that the call reaches its end without a GPU."""
    calls: list[str] = []

    def synchronize(*args: object) -> None:
        calls.append("synchronize")

    for owner in (torch.cuda, torch.cuda.Stream, torch.cuda.Event, torch.accelerator):
        monkeypatch.setattr(owner, "synchronize", synchronize)
    before = torch.cuda.synchronize
    yield calls
    assert torch.cuda.synchronize is before, "a guard left its patch behind"


TORCH_VERBS: dict[str, Callable[[], object]] = {
    "torch.accelerator.synchronize()": lambda: torch.accelerator.synchronize(),
    "torch.cuda.synchronize()": lambda: torch.cuda.synchronize(),
    "torch.cuda.Stream.synchronize()": lambda: cast(Any, torch.cuda.Stream).synchronize(None),
    "torch.cuda.Event.synchronize()": lambda: cast(Any, torch.cuda.Event).synchronize(None),
}


@pytest.mark.parametrize("verb", TORCH_VERBS)
async def test_verb_of_torch_is_refused_in_the_guarded_task_only(
    strict: HostBlockGuard, calls_of_torch: list[str], verb: str
) -> None:
    """Torch is patched while a guard is there, and acts as ever for everybody else."""
    inside, done = asyncio.Event(), asyncio.Event()

    async def guarded() -> None:
        with strict.watch():
            inside.set()
            await done.wait()
            with pytest.raises(HostBlockedError, match=verb.replace("(", r"\(").rstrip(")")):
                TORCH_VERBS[verb]()

    task = asyncio.create_task(guarded())
    await inside.wait()
    TORCH_VERBS[verb]()
    await asyncio.to_thread(TORCH_VERBS[verb])
    done.set()
    await task
    TORCH_VERBS[verb]()
    assert len(calls_of_torch) == 3
    assert strict.num_blocked == 1


async def test_torch_stays_patched_until_the_last_guard_leaves(
    strict: HostBlockGuard, counting: HostBlockGuard, calls_of_torch: list[str]
) -> None:
    """One scheduler that stops does not blind the guard of another."""
    with strict.watch():
        with counting.watch():
            pass
        with pytest.raises(HostBlockedError):
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    assert calls_of_torch == ["synchronize"]


async def test_patch_on_top_of_ours_is_left_alone(
    strict: HostBlockGuard, calls_of_torch: list[str]
) -> None:
    """A profiler that patched torch after us keeps its patch, and ours passes calls on."""
    original = torch.cuda.synchronize
    with strict.watch():
        ours = torch.cuda.synchronize

        def theirs(*_: object) -> None:
            calls_of_torch.append("profiled")
            ours()

        cast(Any, torch.cuda).synchronize = theirs
    torch.cuda.synchronize()
    torch.cuda.synchronize = original
    assert calls_of_torch == ["profiled", "synchronize"]


# Tensors --------------------------------------------------------------------------


async def read(number: torch.Tensor) -> None:
    """Read a device's number on the host, a step of the loop later."""
    await asyncio.sleep(0)
    number.item()


@pytest.fixture
def number() -> torch.Tensor:
    """A tensor that is not on the CPU; it has no value to read, torch says so."""
    return torch.ones((), device="meta")


async def test_tensor_call_in_strict_run_is_refused(
    strict: HostBlockGuard, number: torch.Tensor
) -> None:
    """``.item()`` waits for the device as surely as ``synchronize`` does."""
    with pytest.raises(HostBlockedError, match=r"item\(\) on meta"):
        await strict.run(read(number))


async def test_tensor_call_in_counting_run_goes_through(number: torch.Tensor) -> None:
    """On request tensors are watched without strict mode; torch answers as ever."""
    guard = HostBlockGuard(watch_tensors=True)
    with pytest.raises(RuntimeError, match="meta tensors"):
        await guard.run(read(number))
    assert guard.num_blocked == 1


async def test_tensors_are_not_watched_unless_asked(
    counting: HostBlockGuard, number: torch.Tensor
) -> None:
    """The production path pays nothing for the watch on tensors."""
    with pytest.raises(RuntimeError, match="meta tensors"):
        await counting.run(read(number))
    assert counting.num_blocked == 0


async def test_allowed_tensor_call_goes_through(
    strict: HostBlockGuard, number: torch.Tensor
) -> None:
    """A permission covers tensors, too."""

    async def allowed() -> None:
        with allow_blocking("bootstrap"):
            await read(number)

    with pytest.raises(RuntimeError, match="meta tensors"):
        await strict.run(allowed())
    assert strict.allowed == {"bootstrap": 1}


async def test_task_between_two_steps_of_a_watched_one_is_not_watched(
    strict: HostBlockGuard, number: torch.Tensor
) -> None:
    """Torch's modes are the thread's: ours must be gone whenever the watched task sleeps."""
    resumed, turn = asyncio.Event(), asyncio.Event()

    async def watched() -> None:
        for _ in range(2):
            resumed.set()
            await turn.wait()
            turn.clear()
        with pytest.raises(HostBlockedError):
            number.item()

    task = asyncio.create_task(strict.run(watched()))
    for _ in range(2):
        await resumed.wait()
        resumed.clear()
        # What the guard's mode does to a task that is not guarded cannot be seen but here.
        assert _get_current_function_mode_stack() == []  # type: ignore[no-untyped-call]  # bare
        turn.set()
    await task
    assert strict.num_blocked == 1


async def test_nested_runs_count_a_tensor_call_once_each(number: torch.Tensor) -> None:
    """Two modes see the same call; each tells its own guard."""
    outer, inner = HostBlockGuard(watch_tensors=True), HostBlockGuard(watch_tensors=True)
    with pytest.raises(RuntimeError, match="meta tensors"):
        await outer.run(inner.run(read(number)))
    assert (outer.num_blocked, inner.num_blocked) == (1, 1)


async def test_run_passes_on_what_the_coroutine_returns_and_is_sent(strict: HostBlockGuard) -> None:
    """Results of awaits reach the coroutine, and its own result the caller."""

    async def add() -> int:
        future = asyncio.get_running_loop().create_future()
        future.get_loop().call_soon(future.set_result, 40)
        return int(await future) + 2

    assert await strict.run(add()) == 42


async def test_cancelled_run_cleans_up_in_the_coroutine_and_leaves_nothing(
    strict: HostBlockGuard, number: torch.Tensor
) -> None:
    """The cancellation arrives at the await; cleaning up is watched like the rest."""
    started = asyncio.Event()

    async def sleeper() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            with pytest.raises(HostBlockedError):
                number.item()

    task = asyncio.create_task(strict.run(sleeper()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(RuntimeError, match="meta tensors"):
        number.item()
    assert strict.num_blocked == 1


async def test_mode_left_open_across_an_await_is_an_error(strict: HostBlockGuard) -> None:
    """``with torch.device(...)`` around an await acts on every task; say so, and end it."""

    async def leaking() -> None:
        with torch.device("meta"):
            await asyncio.sleep(0)

    with pytest.raises(TorchModeOpenError, match="DeviceContext"):
        await strict.run(leaking())
    assert torch.zeros(1).device.type == "cpu"
