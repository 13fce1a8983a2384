"""One suite for both kinds of link, and what only one of them has."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
import torch

from aio_sched.disaggregated.errors import (
    LinkClosedError,
    LinkProtocolError,
    PeerLostError,
    PeerMismatchError,
)
from aio_sched.disaggregated.fingerprint import bytes_of
from aio_sched.disaggregated.link import KVLink, local_link
from aio_sched.disaggregated.messages import Abort, HandOver, Ping
from aio_sched.disaggregated.sockets import SocketLink, connect_link, serve_links
from aio_sched.engine.requests import SamplingParams

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

KINDS = pytest.mark.parametrize("kind", ["local", "unix", "tcp"])


@asynccontextmanager
async def made(kind: str, folder: Path) -> AsyncIterator[tuple[KVLink, KVLink]]:
    """Make the two ends of a link, and close them."""
    if kind == "local":
        ends = local_link(capacity=2)
        yield ends
        for end in ends:
            await end.aclose()
        return
    came: asyncio.Future[SocketLink] = asyncio.get_running_loop().create_future()
    where: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def handle(link: SocketLink) -> None:
        came.set_result(link)
        await over.wait()

    address = f"unix:{folder / 'link'}" if kind == "unix" else "tcp:127.0.0.1:0"
    serving = asyncio.create_task(serve_links(address, handle, on_listening=where.set_result))
    near = await connect_link(await where)
    try:
        yield near, await came
    finally:
        await near.aclose()
        over.set()
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


def big(number: int) -> HandOver:
    """Make a hand-over that takes several pieces."""
    rows = torch.randn(300, 2, 6, 32, generator=torch.Generator().manual_seed(number))
    return HandOver(number, b"x" * 300, SamplingParams(), 65, rows, -rows)


@KINDS
async def test_messages_come_in_order_and_whole(kind: str, tmp_path: Path) -> None:
    """Small and large ones, both ways at the same time."""
    async with asyncio.timeout(10.0), made(kind, tmp_path) as (near, far):

        async def send(end: KVLink) -> None:
            for number in range(4):
                await end.send(big(number))
                await end.send(Abort(number))

        async def receive(end: KVLink) -> None:
            for number in range(4):
                got = await end.receive()
                assert isinstance(got, HandOver)
                assert got.id == number
                assert bytes_of(got.values) == bytes_of(big(number).values)
                assert await end.receive() == Abort(number)

        await asyncio.gather(send(near), receive(far), send(far), receive(near))


@KINDS
async def test_sender_waits_for_who_does_not_receive(kind: str, tmp_path: Path) -> None:
    """A link is no store: what it holds is bounded, and room lets the sender go on."""
    async with asyncio.timeout(10.0), made(kind, tmp_path) as (near, far):
        num_sent, message = 0, big(7)
        # Before somebody has waited on it, anyio's TCP stream takes whatever comes.
        waiting = asyncio.create_task(far.receive())
        await asyncio.sleep(0)
        await near.send(Ping())
        await waiting

        async def send() -> None:
            nonlocal num_sent
            for _ in range(60):
                await near.send(message)
                num_sent += 1

        sending = asyncio.create_task(send())
        while True:  # until it makes no headway any more
            before = num_sent
            for _ in range(200):
                await asyncio.sleep(0)
            if num_sent == before:
                break
        assert num_sent < 60
        for _ in range(60):
            assert isinstance(await far.receive(), HandOver)
        await sending


@KINDS
async def test_end_that_is_closed_is_lost_to_the_other(kind: str, tmp_path: Path) -> None:
    """Waiting and later calls raise, and name the peer; the closed end says that it is closed."""
    async with asyncio.timeout(10.0), made(kind, tmp_path) as (near, far):
        waiting = asyncio.create_task(near.receive())
        await asyncio.sleep(0)
        await far.aclose()
        with pytest.raises(PeerLostError, match=near.peer):
            await waiting
        with pytest.raises(PeerLostError, match=near.peer):
            for _ in range(100):
                await near.send(big(0))
        await near.aclose()
        with pytest.raises(LinkClosedError, match=f"link to {near.peer} is closed"):
            await near.send(Ping())
        with pytest.raises(LinkClosedError):
            await near.receive()


async def test_what_came_before_the_end_can_be_received(tmp_path: Path) -> None:
    """In one process as over a socket."""
    for kind in ("local", "unix"):
        async with asyncio.timeout(10.0), made(kind, tmp_path) as (near, far):
            await near.send(Ping())
            await near.aclose()
            assert await far.receive() == Ping()
            with pytest.raises(PeerLostError):
                await far.receive()


async def test_sender_that_is_cancelled_within_a_frame_sends_no_other(tmp_path: Path) -> None:
    """The bytes behind it would be taken for the rest of the frame."""
    async with asyncio.timeout(10.0), made("unix", tmp_path) as (near, _):

        async def send() -> None:
            while True:
                await near.send(big(0))

        sending = asyncio.create_task(send())
        for _ in range(300):
            await asyncio.sleep(0)
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        with pytest.raises(LinkClosedError):
            await near.send(Ping())


async def test_frames_that_are_none_end_a_link(tmp_path: Path) -> None:
    """Of another protocol, of another version, larger than agreed; the errors name the peer."""
    cases = [
        (b"GET / HTTP/1.1\r\n\r\n    ", LinkProtocolError, "where a frame begins"),
        (struct.pack("!4sHHIQ", b"AIOS", 9, 5, 0, 0), PeerMismatchError, "speaks version 9"),
        (struct.pack("!4sHHIQ", b"AIOS", 1, 2, 0, 1 << 40), LinkProtocolError, "at most"),
    ]
    for data, error, message in cases:
        async with asyncio.timeout(10.0), made("unix", tmp_path) as (near, far):
            assert isinstance(near, SocketLink)
            await near._stream.send(data)
            with pytest.raises(error, match=f"{far.peer}.* {message}"):
                await far.receive()


async def test_address_nobody_listens_at_is_named(tmp_path: Path) -> None:
    """And one of no known form is refused."""
    for address in (f"unix:{tmp_path / 'nobody'}", "tcp:127.0.0.1:1"):
        with pytest.raises(PeerLostError, match=f"reached at {address} .*start the decode side"):
            await connect_link(address)
    for address in ("127.0.0.1:80", "tcp:here", "tcp:here:99999", "unix:", "http://here:80"):
        with pytest.raises(ValueError, match="is neither 'unix:/path' nor 'tcp:host:port'"):
            await connect_link(address)
    with pytest.raises(ValueError, match="capacity=0"):
        local_link(capacity=0)


async def test_path_that_somebody_listens_at_is_not_taken_over(tmp_path: Path) -> None:
    """Who serves there goes on; what one that was killed has left behind is replaced."""

    async def ignore(_: SocketLink) -> None:
        return

    async with made("unix", tmp_path) as (near, far):
        with pytest.raises(OSError, match=f"{tmp_path / 'link'} is in use.*another path"):
            await serve_links(f"unix:{tmp_path / 'link'}", ignore)
        await near.send(Ping())
        assert await far.receive() == Ping()
        assert await anyio.Path(tmp_path / "link").exists()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "link"))
    async with asyncio.timeout(10.0), made("unix", tmp_path) as (near, far):
        await near.send(Ping())
        assert await far.receive() == Ping()


async def test_unix_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    """There is no authentication behind it; and its file goes with the listener."""
    async with made("unix", tmp_path):
        assert (tmp_path / "link").stat().st_mode & 0o077 == 0
    assert not await anyio.Path(tmp_path / "link").exists()
