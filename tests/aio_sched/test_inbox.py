"""The inbox: one answer for each asker, whatever happens to the others."""

import asyncio
from typing import Any

import pytest
import torch

from aio_sched import HostCopy, OverlapScheduler, Pipeline, SequentialScheduler
from aio_sched.errors import InboxFullError, SchedulerClosedError
from aio_sched.inbox import Inbox
from aio_sched.stages import Step
from tests.aio_sched.pipelines import until


@pytest.fixture
def inbox() -> Inbox[int, str]:
    """An inbox whose pipeline always wants more."""
    return Inbox(lambda: None)


def a_step() -> Step:
    """A step without a scheduler; the inbox only tells it from others."""
    step = object.__new__(Step)
    step.index = 0
    return step


async def asked(inbox: Inbox[int, str], *items: int) -> list[asyncio.Task[str]]:
    """Ask for each item, and let the items arrive."""
    target = len(inbox) + len(items)
    askers = [asyncio.create_task(inbox.ask(item)) for item in items]
    await until(lambda: len(inbox) == target)
    return askers


async def test_each_asker_gets_the_answer_of_the_item(inbox: Inbox[int, str]) -> None:
    """Items come out oldest first, and steps may be answered in any order."""
    askers = await asked(inbox, 0, 1, 2, 3, 4)
    first, second = a_step(), a_step()
    assert inbox.take(first, 3) == [0, 1, 2]
    assert inbox.take(second, 3) == [3, 4]
    assert (len(inbox), inbox.num_open) == (0, 5)
    inbox.answer(second, ["d", "e"])
    inbox.answer(first, ["a", "b", "c"])
    assert await asyncio.gather(*askers) == ["a", "b", "c", "d", "e"]
    assert inbox.num_open == 0


async def test_step_that_takes_twice_is_answered_as_one(inbox: Inbox[int, str]) -> None:
    """What prepare took in several bites is one batch."""
    askers = await asked(inbox, 0, 1)
    step = a_step()
    assert (inbox.take(step, 1), inbox.take(step, 1), inbox.take(step, 1)) == ([0], [1], [])
    inbox.answer(step, ["a", "b"])
    assert await asyncio.gather(*askers) == ["a", "b"]


async def test_item_of_a_cancelled_asker_is_not_taken(inbox: Inbox[int, str]) -> None:
    """Nobody works for an asker who has gone."""
    gone, stays = await asked(inbox, 1, 2)
    gone.cancel()
    await asyncio.wait([gone])
    step = a_step()
    assert inbox.take(step, 8) == [2]
    inbox.answer(step, ["b"])
    assert await stays == "b"


async def test_asker_with_a_tensor_may_be_cancelled() -> None:
    """Items are told apart by who they are: tensors have no single truth of being equal."""
    inbox: Inbox[torch.Tensor, str] = Inbox(lambda: None)
    askers = [asyncio.create_task(inbox.ask(torch.zeros(2))) for _ in range(2)]
    await until(lambda: len(inbox) == 2)
    for asker in reversed(askers):
        asker.cancel()
    await asyncio.wait(askers)
    assert len(inbox) == 0


async def test_answer_for_a_cancelled_asker_is_dropped(inbox: Inbox[int, str]) -> None:
    """An asker cancelled while the item is on the device hurts nobody else."""
    gone, stays = await asked(inbox, 1, 2)
    step = a_step()
    inbox.take(step, 8)
    gone.cancel()
    await asyncio.wait([gone])
    inbox.answer(step, ["a", "b"])
    assert await stays == "b"


async def test_failed_step_raises_for_its_askers_only(inbox: Inbox[int, str]) -> None:
    """The requests of other steps live on."""
    failing, fine = await asked(inbox, 1, 2)
    bad, good = a_step(), a_step()
    inbox.take(bad, 1)
    inbox.take(good, 1)
    inbox.fail(bad, OSError("no"))
    inbox.answer(good, ["b"])
    with pytest.raises(OSError, match="no"):
        await failing
    assert await fine == "b"


async def test_failure_after_the_answer_changes_nothing(inbox: Inbox[int, str]) -> None:
    """A step may fail after publish; whoever has an answer keeps it."""
    (asker,) = await asked(inbox, 1)
    step = a_step()
    inbox.take(step, 1)
    inbox.answer(step, ["a"])
    inbox.fail(step, OSError("late"))
    assert await asker == "a"


async def test_wrong_number_of_answers_is_an_error_that_can_still_fail(
    inbox: Inbox[int, str],
) -> None:
    """Nobody is answered with somebody else's result, and nobody is forgotten."""
    (asker,) = await asked(inbox, 1)
    step = a_step()
    inbox.take(step, 1)
    with pytest.raises(ValueError, match="3 answers for the 1 items") as caught:
        inbox.answer(step, ["a", "b", "c"])
    inbox.fail(step, caught.value)
    with pytest.raises(ValueError, match="3 answers"):
        await asker


async def test_closed_inbox_ends_everybody_and_refuses_who_comes(inbox: Inbox[int, str]) -> None:
    """After close nobody waits for ever, whether the item was taken or not."""
    taken, waiting = await asked(inbox, 1, 2)
    inbox.take(a_step(), 1)
    cause = OSError("device gone")
    inbox.close(cause)
    for asker in (taken, waiting, asyncio.create_task(inbox.ask(3))):
        with pytest.raises(SchedulerClosedError, match="has stopped") as caught:
            await asker
        assert caught.value.__cause__ is cause
    assert inbox.num_open == 0


async def test_full_inbox_refuses_one_more() -> None:
    """Back-pressure: the asker is told at once, with the number."""
    inbox: Inbox[int, str] = Inbox(lambda: None, max_waiting=1)
    (asker,) = await asked(inbox, 1)
    with pytest.raises(InboxFullError, match="1 items wait already"):
        await inbox.ask(2)
    asker.cancel()
    await asyncio.wait([asker])
    assert len(inbox) == 0


async def test_item_is_not_queued_if_the_scheduler_refuses_it() -> None:
    """A wake that raises reaches the asker, and nothing is left in the inbox."""

    def refuse() -> None:
        raise SchedulerClosedError("closed")

    inbox: Inbox[int, str] = Inbox(refuse)
    with pytest.raises(SchedulerClosedError):
        await inbox.ask(1)
    assert len(inbox) == 0


def test_limits_that_let_nothing_through_are_errors(inbox: Inbox[int, str]) -> None:
    """Each with its value."""
    with pytest.raises(ValueError, match="limit=0"):
        inbox.take(a_step(), 0)
    with pytest.raises(ValueError, match="max_waiting=0"):
        Inbox(lambda: None, max_waiting=0)


class Halves(Pipeline[Any, HostCopy]):
    """Halves numbers, two at a time; prepare fails if one of them is odd."""

    def __init__(self) -> None:
        self.inbox: Inbox[int, int] = Inbox(self.wake)

    async def prepare(self, step: Step) -> Any:
        """Take two, and refuse odd ones after they were taken."""
        if not (items := self.inbox.take(step, 2)):
            return None
        if any(item % 2 for item in items):
            raise ValueError(f"{items} has an odd number")
        return step.launch(torch.tensor, items)

    async def forward(self, step: Step, inputs: Any) -> HostCopy:
        """Halve them."""
        return step.copy_to_host(step.launch(lambda numbers: numbers // 2, inputs))

    async def publish(self, step: Step, inputs: Any, output: HostCopy) -> None:
        """Answer."""
        self.inbox.answer(step, (await output).tolist())

    def failed(self, step: Step, inputs: Any, error: BaseException) -> None:
        """Tell the step's askers."""
        self.inbox.fail(step, error)

    def closed(self, error: BaseException | None) -> None:
        """Tell the others."""
        self.inbox.close(error)


@pytest.mark.parametrize("kind", [OverlapScheduler, SequentialScheduler])
async def test_pipeline_with_a_failing_prepare_answers_every_asker(kind: Any) -> None:
    """A prepare that fails after it took items leaves nobody waiting, and the loop goes on."""
    halves = Halves()
    async with kind(halves, "cpu"):
        asking = (halves.inbox.ask(number) for number in (2, 4, 6, 7, 8, 10))
        answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [answers[i] for i in (0, 1, 4, 5)] == [1, 2, 4, 5]
    assert [str(answers[i]) for i in (2, 3)] == ["[6, 7] has an odd number"] * 2
    with pytest.raises(SchedulerClosedError):
        await halves.inbox.ask(2)
