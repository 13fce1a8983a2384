"""The decode side and whoever connects to it."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
import torch

from aio_sched.disaggregated.errors import LinkProtocolError, PeerLostError, PeerMismatchError
from aio_sched.disaggregated.fingerprint import identity_of
from aio_sched.disaggregated.link import KVLink, local_link
from aio_sched.disaggregated.messages import (
    Abort,
    Bye,
    Ended,
    Hello,
    Message,
    Ping,
    Pong,
    Progress,
    Refused,
)
from aio_sched.disaggregated.worker import DecodeWorker
from aio_sched.engine.requests import FinishReason, SamplingParams
from streams.device import open_device
from streams.errors import DeviceLostError
from tests.aio_sched.disaggregated.fakes import (
    FakePrefill,
    handed,
    in_virtual_time,
    worker_alone,
)
from tests.aio_sched.engine.tiny import rigged


async def until_end(link: KVLink) -> list[Message]:
    """Receive until the other side says its last word or is gone."""
    got: list[Message] = []
    with suppress(PeerLostError):
        while True:
            got.append(await link.receive())
    return got


def ends(got: list[Message]) -> dict[int, Ended]:
    """Return how requests ended, each of them once."""
    ended = [each for said in got if isinstance(said, Progress) for each in said.ended]
    assert len({each.id for each in ended}) == len(ended)
    return {each.id: each for each in ended}


async def end_of(link: KVLink, number: int) -> tuple[bytes, Ended]:
    """Receive until a request has ended; return its tokens and its end."""
    text = bytearray()
    while True:
        said = await link.receive()
        assert isinstance(said, Progress)
        for owner, tokens in said.tokens:
            text += tokens if owner == number else b""
        for ended in said.ended:
            if ended.id == number:
                return bytes(text), ended


def test_request_goes_on_from_its_rows_to_its_end() -> None:
    """With its places told at the beginning; the first token is not sent back."""

    async def main() -> None:
        async with worker_alone() as (worker, serving, fake):
            hello = await fake.greet()
            assert (hello.role, hello.places) == ("decode", 3)
            await fake.link.send(handed(5, params=SamplingParams(max_tokens=3)))
            text, ended = await end_of(fake.link, 5)
            assert ended.reason in (FinishReason.LENGTH, FinishReason.END_OF_TEXT)
            assert len(text) == 2 or ended.reason is FinishReason.END_OF_TEXT
            await fake.link.send(Bye())
            await serving
            assert worker.pipeline.is_empty.is_set()

    in_virtual_time(main)


def test_abort_ends_a_request_and_frees_its_slot() -> None:
    """Also one that waits for a slot; an abort that crosses the end is nothing."""

    async def main() -> None:
        async with worker_alone() as (worker, _, fake):
            await fake.greet()
            for number in range(3):
                await fake.link.send(handed(number, params=SamplingParams(max_tokens=60)))
            for number in (2, 0, 1, 0, 77):
                await fake.link.send(Abort(number))
            got: list[Message] = []
            while len(ends(got)) < 3:
                got.append(await fake.link.receive())
            assert sorted(ends(got)) == [0, 1, 2]
            await worker.pipeline.is_empty.wait()
            assert worker.pipeline.num_free_slots == 2

    in_virtual_time(main)


def test_ping_is_answered_while_the_device_works() -> None:
    """That the loop is there is all that is asked."""

    async def main() -> None:
        async with worker_alone() as (_, _, fake):
            await fake.greet()
            await fake.link.send(Ping())
            assert await fake.link.receive() == Pong()

    in_virtual_time(main)


@pytest.mark.parametrize("orderly", [False, True])
def test_prefill_side_that_is_gone_leaves_nothing_behind(orderly: bool) -> None:
    """Its requests end, their slots are free, and the worker serves the next one."""

    async def main() -> None:
        async with worker_alone() as (worker, serving, fake):
            await fake.greet()
            for number in range(3):
                await fake.link.send(handed(number, params=SamplingParams(max_tokens=60)))
            await fake.link.receive()
            requests = [*worker.pipeline.running, *worker.pipeline.waiting]
            if orderly:
                await fake.link.send(Bye())
                await serving
            else:
                await fake.link.aclose()
                with pytest.raises(PeerLostError, match="prefill has closed"):
                    await serving
            assert FinishReason.ABORTED in [each.finish for each in requests]
            assert None not in [each.finish for each in requests]
            await worker.pipeline.is_empty.wait()
            assert worker.pipeline.num_free_slots == 2
            near, far = local_link()
            async with worker.serving(far):
                again = FakePrefill(near)
                await again.greet()
                await near.send(handed(0, params=SamplingParams(max_tokens=2)))
                await end_of(near, 0)

    in_virtual_time(main)


def test_prefill_side_that_takes_nothing_is_given_up() -> None:
    """Within its deadline, however full the link is."""

    async def main() -> None:
        near, far = local_link(capacity=1)
        with open_device("sim") as device:
            async with DecodeWorker(rigged(), device, peer_deadline_s=3.0) as worker:
                serving = asyncio.create_task(worker.serve(far))
                await FakePrefill(near).greet()
                for number in range(3):
                    await near.send(handed(number))
                with pytest.raises(PeerLostError, match=r"prefill has taken nothing for 3\.0 s"):
                    await serving
                await worker.pipeline.is_empty.wait()

    in_virtual_time(main)


ROWS = torch.zeros(3, 2, 2, 8)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([handed(0), handed(0)], "all 3 places are taken, or one by it"),
        ([handed(n) for n in range(4)], "handed request 3 over, and all 3 places"),
        ([handed(0, keys=ROWS[:2])], r"rows of \(2, 2, 2, 8\) torch.float32, and its prompt needs"),
        ([handed(0, values=ROWS.half())], r"torch.float16, and its prompt needs"),
        ([handed(0, params=SamplingParams(max_tokens=62))], "has 3 tokens and wants 62"),
        ([handed(0, params=SamplingParams(max_tokens=1))], "it has nothing to decode"),
        ([handed(0, first_token=0)], "comes with token 0"),
        ([handed(0, first_token=256)], "comes with token 256"),
        ([Progress()], r"sent Progress\(.* to a decode side"),
    ],
)
def test_what_may_not_be_sent_ends_the_link_and_says_why(
    messages: list[Any], complaint: str
) -> None:
    """More than there is room for, rows that do not fit the model, messages of a decode side."""

    async def main() -> None:
        async with worker_alone() as (worker, serving, fake):
            await fake.greet()
            for message in messages:
                await fake.link.send(message)
            with pytest.raises(LinkProtocolError, match=complaint):
                await serving
            last = (await until_end(fake.link))[-1]
            assert isinstance(last, Refused)
            await worker.pipeline.is_empty.wait()

    in_virtual_time(main)


def test_prefill_side_with_another_model_is_refused() -> None:
    """Both sides say so."""

    async def main() -> None:
        async with worker_alone() as (_, serving, fake):
            other = rigged()
            next(other.parameters()).flatten()[0] += 1
            await fake.link.send(Hello("prefill", "other", identity_of(other)))
            with pytest.raises(PeerMismatchError, match="prefill, other, has another model"):
                await serving
            got = await until_end(fake.link)
            assert [type(each) for each in got] == [Hello, Refused]

    in_virtual_time(main)


def test_worker_whose_device_is_lost_says_so_before_it_ends() -> None:
    """Its requests end with what happened; the link does not just break."""

    async def main() -> None:
        near, far = local_link()
        with open_device("sim") as device, pytest.raises(DeviceLostError):
            async with DecodeWorker(rigged(), device) as worker:
                serving = asyncio.create_task(worker.serve(far))
                await FakePrefill(near).greet()
                await near.send(handed(0, params=SamplingParams(max_tokens=60)))
                await near.receive()
                device.lose(RuntimeError("it fell off the bus"))
                got = await until_end(near)
                assert ends(got)[0].reason is FinishReason.ERROR
                assert "fell off the bus" in ends(got)[0].error
                assert got[-1] == Bye()
                with pytest.raises(DeviceLostError):
                    await serving

    in_virtual_time(main)


def test_numbers_out_of_range_are_refused() -> None:
    """Of the worker's own; the others are the engine's."""
    with open_device("sim") as device:
        for options in ({"queue": -1}, {"peer_deadline_s": 0.0}, {"max_running": 0}):
            with pytest.raises(ValueError, match=next(iter(options))):
                DecodeWorker(rigged(), device, **options)
