"""How a link begins: each side says who it is, and checks that the other one belongs to it."""

import asyncio

from aio_sched.disaggregated.errors import LinkProtocolError, PeerLostError, PeerMismatchError
from aio_sched.disaggregated.link import KVLink
from aio_sched.disaggregated.messages import Hello, Refused

__all__ = ["greet"]

_PAIRS = {("prefill", "decode"), ("decode", "prefill")}


async def greet(link: KVLink, hello: Hello, deadline_s: float) -> Hello:
    """Say hello and wait for the other side's.

    Args:
        link: nothing was sent or received on it.
        hello: of this side.
        deadline_s: seconds that it may take.

    Returns:
        The other side's.

    Raises:
        PeerMismatchError: it has another model or version; it is told that it was refused.
        LinkProtocolError: it did something else.
        PeerLostError: it is gone, refuses us, or did not answer in time.
    """
    try:
        async with asyncio.timeout(deadline_s):
            await link.send(hello)
            other = await link.receive()
    except TimeoutError as error:
        raise PeerLostError(f"{link.peer} did not say hello within {deadline_s} s") from error
    if isinstance(other, Refused):
        raise PeerLostError(f"{link.peer} refuses to serve us: {other.why}")
    if not isinstance(other, Hello) or (other.role, hello.role) not in _PAIRS:
        raise LinkProtocolError(f"{link.peer} began with {other}, and not as the other side does")
    if other.role == "decode" and other.places < 1:
        raise LinkProtocolError(f"{link.peer} offers {other.places} places; it needs at least 1")
    try:
        hello.model.check(other.model, f"{link.peer}, {other.name},")
    except PeerMismatchError as error:
        await _refuse(link, str(error), deadline_s)
        raise
    return other


async def _refuse(link: KVLink, why: str, deadline_s: float) -> None:
    try:
        async with asyncio.timeout(deadline_s):
            await link.send(Refused(why))
    except (TimeoutError, PeerLostError):
        return  # it sees for itself, and ours is the better error
