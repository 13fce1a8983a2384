"""A prefill side that holds the decode side, and another one that would like to."""

import asyncio

import pytest

from aio_sched.disaggregated.errors import PeerLostError
from aio_sched.disaggregated.fingerprint import identity_of
from aio_sched.disaggregated.link import local_link
from aio_sched.disaggregated.messages import Hello, Ping, Pong, Refused
from aio_sched.disaggregated.worker import DecodeWorker
from tests.aio_sched.disaggregated.fakes import FakePrefill, in_virtual_time, worker_alone
from tests.aio_sched.engine.tiny import rigged


async def second_is_refused(worker: DecodeWorker) -> None:
    """Let another prefill side come, and be told."""
    near, far = local_link()
    refusing = asyncio.create_task(worker.serve(far))
    await near.send(Hello("prefill", "second", identity_of(rigged())))
    said = await near.receive()
    assert isinstance(said, Refused)
    assert "serves another prefill side already" in said.why
    await refusing


def test_second_prefill_side_is_refused_while_the_first_is_served() -> None:
    """It is told; the first one notices nothing."""

    async def main() -> None:
        async with worker_alone() as (worker, _, fake):
            await fake.greet()
            await second_is_refused(worker)
            await fake.link.send(Ping())
            assert {await fake.link.receive(), await fake.link.receive()} == {Ping(), Pong()}

    in_virtual_time(main)


def test_prefill_side_that_does_not_answer_makes_room_for_the_next_one() -> None:
    """It is asked when somebody wants its place, and then given up; nobody is asked before."""

    async def main() -> None:
        async with worker_alone(peer_deadline_s=4.0) as (worker, serving, fake):
            await fake.greet()
            await asyncio.sleep(1000.0)
            await second_is_refused(worker)
            assert await fake.link.receive() == Ping()
            with pytest.raises(
                PeerLostError, match=r"has not answered for 4\.0 s.*wants its place"
            ):
                await serving
            near, far = local_link()
            async with worker.serving(far):
                await FakePrefill(near).greet()

    in_virtual_time(main)


def test_prefill_side_that_answers_keeps_its_place() -> None:
    """However often somebody else comes."""

    async def main() -> None:
        async with worker_alone(peer_deadline_s=4.0) as (worker, serving, fake):
            await fake.greet()
            for _ in range(3):
                await second_is_refused(worker)
                assert await fake.link.receive() == Ping()
                await fake.link.send(Pong())
                await asyncio.sleep(10.0)
            assert not serving.done()

    in_virtual_time(main)
