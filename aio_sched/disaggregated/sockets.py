"""``KVLink`` between processes, over TCP or a Unix socket.

There is no authentication and no encryption: whoever can connect can hand over requests and
read their tokens. Use a Unix socket in a folder of one's own, or a network that is trusted.
"""

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
from anyio.abc import ByteStream, SocketAttribute

from aio_sched.disaggregated.errors import LinkClosedError, PeerLostError
from aio_sched.disaggregated.frames import HEAD, decoded, encoded, head_of
from aio_sched.disaggregated.link import KVLink
from aio_sched.disaggregated.messages import Message

__all__ = ["SocketLink", "connect_link", "serve_links"]

_PIECE = 128 * 1024
"""Bytes that one send may copy, and one receive, before other tasks have their turn."""


class SocketLink(KVLink):
    """Messages over a stream of bytes.

    Tensors go out from their own memory and come in to the memory where they stay, in pieces
    between which the loop serves others.

    Args:
        stream: a connection; the link closes it.
        peer: names the other side in errors.
    """

    def __init__(self, stream: ByteStream, peer: str) -> None:
        self.peer = peer
        self._stream = stream
        self._is_closed = False
        self._is_torn = False  # a frame was begun and not ended

    def __repr__(self) -> str:
        return f"<SocketLink to {self.peer!r}{' closed' if self._is_closed else ''}>"

    async def send(self, message: Message) -> None:
        """Send a frame; see ``KVLink.send``."""
        if self._is_torn:
            raise self._closed()
        front, body = encoded(message)
        self._is_torn = True
        try:
            await self._stream.send(front)
            for part in body:
                for at in range(0, len(part), _PIECE):
                    # A copy, because a transport may keep what it is given for longer than this.
                    await self._stream.send(bytes(part[at : at + _PIECE]))
        except anyio.ClosedResourceError:
            raise self._closed() from None
        except (anyio.BrokenResourceError, OSError) as error:
            raise self._lost("the connection broke") from error
        self._is_torn = False

    async def receive(self) -> Message:
        """Receive a frame; see ``KVLink.receive``."""
        head = head_of(await self._read(HEAD.size), self.peer, self.max_body)
        header = await self._read(head.header_size)
        body = await self._read(head.body_size)
        return decoded(head, bytes(header), body, self.peer)

    async def aclose(self) -> None:
        """Close the connection."""
        self._is_closed = True
        with suppress(anyio.BrokenResourceError, OSError):
            await anyio.aclose_forcefully(self._stream)

    async def _read(self, size: int) -> bytearray:
        """Fill fresh memory of a size that was checked."""
        memory = bytearray(size)
        at = 0
        try:
            while at < size:
                piece = await self._stream.receive(min(size - at, _PIECE))
                memory[at : at + len(piece)] = piece
                at += len(piece)
        except anyio.EndOfStream as error:
            raise self._lost(f"it closed the connection with {size - at} bytes to come") from error
        except anyio.ClosedResourceError:
            raise self._closed() from None
        except (anyio.BrokenResourceError, OSError) as error:
            raise self._lost("the connection broke") from error
        return memory

    def _lost(self, how: str) -> Exception:
        if self._is_closed:
            return self._closed()
        return PeerLostError(f"{self.peer} is gone: {how}; start it again and connect anew")

    def _closed(self) -> LinkClosedError:
        return LinkClosedError(f"this end of the link to {self.peer} is closed; connect anew")


async def connect_link(address: str, *, timeout_s: float = 10.0) -> SocketLink:
    """Connect to a decode side that listens.

    Args:
        address: ``"unix:/path"`` or ``"tcp:host:port"``.
        timeout_s: seconds that connecting may take.

    Raises:
        ValueError: an address of neither form.
        PeerLostError: nobody listens there.
    """
    path, host, port = _parsed(address)
    try:
        with anyio.fail_after(timeout_s):
            if path:
                return SocketLink(await anyio.connect_unix(path), address)
            return SocketLink(await anyio.connect_tcp(host, port), address)
    except (OSError, TimeoutError) as error:
        raise PeerLostError(
            f"nobody can be reached at {address} ({error}); start the decode side first"
        ) from error


async def serve_links(
    address: str,
    handler: Callable[[SocketLink], Awaitable[None]],
    *,
    on_listening: Callable[[str], object] | None = None,
) -> None:
    """Listen, and call ``handler`` with each link that comes; until it is cancelled.

    Args:
        address: as for ``connect_link``; port 0 takes a free one, and a socket file that was
            left behind at the path is replaced.
        handler: the link is closed when it returns. What it raises ends the serving.
        on_listening: called with the address once others can connect.

    Raises:
        ValueError: an address of neither form.
        OSError: somebody listens there.
    """
    path, host, port = _parsed(address)
    if path:
        _check_free(path)
    # Only the owner may connect: what comes through the socket is not authenticated.
    listener = (
        await anyio.create_unix_listener(path, mode=0o600)
        if path
        else await anyio.create_tcp_listener(local_host=host, local_port=port)
    )

    async def handle(stream: ByteStream) -> None:
        link = SocketLink(stream, f"the prefill side at {address}")
        try:
            await handler(link)
        finally:
            await link.aclose()

    async with listener:
        if on_listening is not None:
            bound = listener.extra(SocketAttribute.local_port) if not path else port
            on_listening(address if path else f"tcp:{host}:{bound}")
        try:
            await listener.serve(handle)
        finally:
            if path:
                with suppress(OSError):
                    os.unlink(path)


def _check_free(path: str) -> None:
    """See that nobody listens there: a listener would replace the socket of one that does.

    A socket of another kind finds that out without being a visitor.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                return
    raise OSError(errno.EADDRINUSE, f"{path} is in use by another process; use another path")


def _parsed(address: str) -> tuple[str, str, int]:
    """Return path, host and port of an address."""
    kind, _, rest = address.partition(":")
    host, _, port = rest.rpartition(":")
    if kind == "unix" and rest:
        return rest, "", 0
    if kind == "tcp" and host and port.isdecimal() and int(port) < 1 << 16:
        return "", host, int(port)
    raise ValueError(f"address {address!r} is neither 'unix:/path' nor 'tcp:host:port'")
