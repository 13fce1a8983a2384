"""The host-block guard: whom it watches, what it sees, and that it leaves nothing behind."""

import asyncio
import inspect
import logging
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

import streams
from streams.device import Device
from streams.errors import HostBlockedError
from streams.guard import CallSite, HostBlockGuard, allow_blocking, check_blocking

WAIT = "a wait"


def here() -> CallSite:
    """The caller's line."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return CallSite(__file__, frame.f_back.f_lineno)


async def block() -> None:
    """Make one blocking call, as seen by the guards."""
    check_blocking(WAIT)


@pytest.fixture
def strict() -> HostBlockGuard:
    """A guard that refuses."""
    return HostBlockGuard(strict=True)


@pytest.fixture
def counting() -> HostBlockGuard:
    """A guard that only counts."""
    return HostBlockGuard()


BLOCKING_VERBS: dict[str, Callable[[Device], object]] = {
    "Device.synchronize()": lambda device: device.synchronize(),
    "Stream.synchronize()": lambda device: device.streams[0].synchronize(),
    "Event.synchronize()": lambda device: device.streams[0].record("mark").synchronize(),
}


@pytest.mark.parametrize("verb", BLOCKING_VERBS)
async def test_own_verb_in_strict_task_is_refused(
    device: Device, strict: HostBlockGuard, verb: str
) -> None:
    """Every blocking verb of this library raises before it blocks, and says which it is."""
    device.stream("stream")
    with strict.watch(), pytest.raises(HostBlockedError) as caught:
        BLOCKING_VERBS[verb](device)
    assert str(caught.value).startswith(verb)
    assert "allow_blocking" in str(caught.value)


async def test_counting_guard_lets_calls_through_and_counts_by_line(
    device: Device, counting: HostBlockGuard
) -> None:
    """Without strict mode the call is made, and remembered with the line that made it."""
    stream = device.stream("stream")
    with counting.watch():
        launch = stream.launch(lambda: 7)
        for _ in range(3):
            stream.synchronize()
            line = here().line - 1
        assert launch.result() == 7
    assert counting.calls == {CallSite(__file__, line): 3}
    assert counting.num_blocked == 3


async def test_refusal_names_the_line_of_the_user(strict: HostBlockGuard) -> None:
    """The line is that of the code that used torch, not one within torch or this library."""
    number = torch.ones((), device="meta")

    async def compare() -> None:
        1 in number  # noqa: B015 - the comparison is what blocks

    first_line = inspect.getsourcelines(compare)[1]
    with pytest.raises(HostBlockedError, match=f"{os.path.basename(__file__)}:{first_line + 1} "):
        await strict.run(compare())


async def test_call_of_the_library_itself_names_the_library_line(counting: HostBlockGuard) -> None:
    """Where no user's code is on the stack, our own line is named, and not the event loop's."""
    file = os.path.join(os.path.dirname(streams.__file__), "pretended.py")
    scope: dict[str, Any] = {"check_blocking": check_blocking}
    exec(compile("async def own():\n    check_blocking('a wait')", file, "exec"), scope)
    with counting.watch():
        await asyncio.create_task(scope["own"]())
    assert list(counting.calls) == [CallSite(file, 2)]


async def test_line_that_blocks_often_is_logged_once(
    counting: HostBlockGuard, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says where the loop blocks; saying it again at each step would bury the rest."""
    with caplog.at_level(logging.WARNING, "aio_sched"), counting.watch():
        for _ in range(3):
            check_blocking(WAIT)
            line = here().line - 1
        check_blocking(WAIT)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert f"{__file__}:{line}" in messages[0]
    assert WAIT in messages[0]


# Whom it watches ------------------------------------------------------------------


async def test_task_beside_a_guarded_one_may_block(strict: HostBlockGuard) -> None:
    """Other tasks of the same loop are not the scheduler's business."""
    inside, done = asyncio.Event(), asyncio.Event()

    async def guarded() -> None:
        with strict.watch():
            inside.set()
            await done.wait()

    task = asyncio.create_task(guarded())
    await inside.wait()
    check_blocking(WAIT)
    done.set()
    await task
    assert strict.num_blocked == 0


async def test_thread_started_by_a_guarded_task_may_block(
    device: Device, strict: HostBlockGuard
) -> None:
    """``to_thread`` copies the context, but what blocks there is not the loop."""
    stream = device.stream("stream")
    event = stream.record("mark")
    with strict.watch():
        await asyncio.to_thread(event.synchronize)
    assert strict.num_blocked == 0


async def test_task_started_by_a_guarded_one_is_watched(strict: HostBlockGuard) -> None:
    """A stage cannot get round the guard with a task group."""
    with strict.watch(), pytest.raises(HostBlockedError):
        await asyncio.create_task(block())
    assert strict.num_blocked == 1


async def test_task_that_outlives_the_guard_is_free(strict: HostBlockGuard) -> None:
    """When the watched block ends, so does the watch on what it started."""
    ended = asyncio.Event()

    async def late() -> None:
        await ended.wait()
        check_blocking(WAIT)

    with strict.watch():
        task = asyncio.create_task(late())
        await asyncio.sleep(0)
    ended.set()
    await task
    assert strict.num_blocked == 0


async def test_guard_ends_with_an_exception(strict: HostBlockGuard) -> None:
    """A block that fails ends its watch."""
    with pytest.raises(KeyError), strict.watch():
        raise KeyError
    check_blocking(WAIT)
    assert strict.num_blocked == 0


@pytest.mark.parametrize("outer_is_strict", [True, False])
async def test_nested_guards_all_count_and_a_strict_one_refuses(outer_is_strict: bool) -> None:
    """A counting scheduler inside a strict test is held to what the test asks, or the reverse."""
    outer, inner = (
        HostBlockGuard(strict=outer_is_strict),
        HostBlockGuard(strict=not outer_is_strict),
    )
    with outer.watch(), inner.watch(), pytest.raises(HostBlockedError):
        check_blocking(WAIT)
    assert (outer.num_blocked, inner.num_blocked) == (1, 1)


async def test_outer_guard_watches_on_after_an_inner_one(
    strict: HostBlockGuard, counting: HostBlockGuard
) -> None:
    """The end of an inner guard ends the inner guard."""
    with strict.watch():
        with counting.watch():
            pass
        with pytest.raises(HostBlockedError):
            check_blocking(WAIT)
    assert (strict.num_blocked, counting.num_blocked) == (1, 0)


async def test_guard_inside_itself_counts_once(counting: HostBlockGuard) -> None:
    """One scheduler guards several tasks of which one has started another."""
    with counting.watch(), counting.watch():
        check_blocking(WAIT)
    assert counting.num_blocked == 1


# What is allowed ------------------------------------------------------------------


async def test_allowed_call_is_counted_under_its_reason(strict: HostBlockGuard) -> None:
    """A wait that is meant passes a strict guard, and shows in its numbers."""
    with strict.watch():
        with allow_blocking("warm-up"):
            check_blocking(WAIT)
            check_blocking(WAIT)
        with pytest.raises(HostBlockedError):
            check_blocking(WAIT)
    assert strict.allowed == {"warm-up": 2}
    assert strict.num_blocked == 1


async def test_permission_is_not_given_to_other_tasks(strict: HostBlockGuard) -> None:
    """Neither a task beside the block nor one that it starts may block."""
    allowed, done = asyncio.Event(), asyncio.Event()

    async def allowing() -> None:
        with allow_blocking("warm-up"):
            child = asyncio.create_task(block())
            allowed.set()
            await done.wait()
            with pytest.raises(HostBlockedError):
                await child

    with strict.watch():
        task = asyncio.create_task(allowing())
        await allowed.wait()
        with pytest.raises(HostBlockedError):
            check_blocking(WAIT)
        done.set()
        await task
    assert not strict.allowed


async def test_guard_inside_a_permission_is_in_force(strict: HostBlockGuard) -> None:
    """What is allowed around a scheduler is not allowed within it."""
    with allow_blocking("warm-up"), strict.watch(), pytest.raises(HostBlockedError):
        check_blocking(WAIT)


@pytest.mark.parametrize("reason", ["", "  "])
def test_permission_without_a_reason_is_an_error(reason: str) -> None:
    """The reason is what a reader of the numbers has to go by."""
    with pytest.raises(ValueError, match="say why"), allow_blocking(reason):
        pass
