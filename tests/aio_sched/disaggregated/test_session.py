"""A prefill side that holds the decode side, and another one that would like to."""

import asyncio
from pathlib import Path

import pytest

from aio_sched.disaggregated.engine import DisaggregatedEngine
from aio_sched.disaggregated.errors import PeerLostError
from aio_sched.disaggregated.fingerprint import identity_of
from aio_sched.disaggregated.frames import HEAD, MAX_HEADER, VERSION
from aio_sched.disaggregated.link import KVLink, local_link
from aio_sched.disaggregated.messages import Hello, Ping, Pong, Refused
from aio_sched.disaggregated.sockets import SocketLink, connect_link, serve_links
from aio_sched.disaggregated.worker import DecodeWorker
from streams.device import open_device
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


async def test_neither_side_takes_memory_for_more_than_its_model_can_use(tmp_path: Path) -> None:
    """A hand-over has the size of a text at most, and nobody hands over to a front."""
    served: asyncio.Future[KVLink] = asyncio.get_running_loop().create_future()
    where: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handle(link: SocketLink) -> None:
        served.set_result(link)
        await asyncio.Event().wait()

    address = f"unix:{tmp_path / 'link'}"
    serving = asyncio.create_task(serve_links(address, handle, on_listening=where.set_result))
    with open_device("cpu") as device:
        async with asyncio.timeout(20.0):
            near = await connect_link(await where)
            far = await served
            async with DecodeWorker(rigged(), device) as worker, worker.serving(far):
                await FakePrefill(near).greet()
                assert isinstance(near, SocketLink)
                largest = worker.pipeline.max_len * (worker.pipeline.row_bytes + 1)
                await near._stream.send(HEAD.pack(b"AIOS", VERSION, 2, 0, largest + 1))
                said = await near.receive()
                assert isinstance(said, Refused)
                assert f"at most {MAX_HEADER} and {largest} are taken" in said.why
            await near.aclose()
    serving.cancel()
    await asyncio.wait([serving])
    with open_device("cpu") as device:
        front, _ = local_link()
        DisaggregatedEngine(rigged(), device, front)
        assert front.max_body == 0
