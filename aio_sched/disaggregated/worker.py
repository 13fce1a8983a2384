"""The decode side as a service: it serves one link after another."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, Unpack

from aio_sched.config import SchedulerOptions
from aio_sched.disaggregated.decode import DecodePipeline
from aio_sched.disaggregated.errors import (
    LinkProtocolError,
    PeerLostError,
    PeerMismatchError,
)
from aio_sched.disaggregated.fingerprint import identity_of
from aio_sched.disaggregated.first import cancelled, until_first
from aio_sched.disaggregated.link import KVLink
from aio_sched.disaggregated.messages import Bye, Hello, Refused
from aio_sched.disaggregated.session import Session
from aio_sched.disaggregated.sockets import serve_links
from aio_sched.engine.model import ByteTransformer
from aio_sched.lifecycle import Scheduler
from aio_sched.loop import OverlapScheduler, SequentialScheduler
from aio_sched.uninterrupted import uninterrupted
from streams.device import Device
from streams.log import get_logger

__all__ = ["DecodeWorker"]

log = get_logger("decode_worker")


class DecodeWorker:
    """Continues the requests that a prefill side hands over.

    Use it in ``async with``, and ``serve`` a link inside. When the link ends, however it does,
    its requests are given up and their slots are free for the next one.

    Args:
        model: on ``device``; the prefill side has the same.
        device: an open device; it stays open.
        max_running: requests that decode together. The same number gives the same texts as an
            ``Engine`` with it.
        queue: further requests whose rows may wait on the host, so that a slot is taken again
            at once.
        overlap: False runs the same pipeline one step at a time.
        peer_deadline_s: seconds that the other side has to greet, to take what is sent, and to
            answer when it is asked, which it is when another one wants its place.
        options: the scheduler's. On a device with others it needs its own ``name``.

    Attributes:
        places: requests that it takes at once: those that decode, and the queue.

    Raises:
        ValueError: a number out of range, or a model that is on another device or that does
            not write bytes.
    """

    def __init__(
        self,
        model: ByteTransformer,
        device: Device,
        *,
        max_running: int = 8,
        queue: int = 2,
        overlap: bool = True,
        peer_deadline_s: float = 10.0,
        **options: Unpack[SchedulerOptions],
    ) -> None:
        if queue < 0:
            raise ValueError(f"queue={queue} is negative; 0 lets no request wait for a slot")
        if peer_deadline_s <= 0:
            raise ValueError(f"peer_deadline_s={peer_deadline_s} is not positive")
        self.places = max_running + queue
        self.peer_deadline_s = peer_deadline_s
        self.pipeline = DecodePipeline(model, device, max_running, depth=options.get("depth", 2))
        kind = OverlapScheduler if overlap else SequentialScheduler
        self.scheduler: Scheduler = kind(self.pipeline, device, **options)
        self._identity = identity_of(model)
        self._name = f"the decode side (process {os.getpid()})"
        self._session: Session | None = None

    async def __aenter__(self) -> Self:
        await self.scheduler.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.scheduler.__aexit__(exc_type, exc, traceback)

    async def serve(self, link: KVLink) -> None:
        """Serve one link until the other side says ``Bye``.

        Closes it at the end, and gives up the requests that it has brought.

        Raises:
            PeerMismatchError: the other side has another model or version; it is told.
            PeerLostError: it is gone, or did not greet, answer or take what was sent in time.
            LinkProtocolError: it sent what it may not send, or too much.
            Exception: what stopped the scheduler.
        """
        session = Session(self.pipeline, self.scheduler, link, self.places, self.peer_deadline_s)
        link.max_body = self.pipeline.max_len * (self.pipeline.row_bytes + 1)
        try:
            if self._session is not None:
                self._session.ask()
                await session.refuse(
                    f"{self._name} serves another prefill side already; connect again in "
                    f"{self.peer_deadline_s} s, for it was asked whether it is still there"
                )
                return
            self._session = session
            try:
                await self._serve(session)
            finally:
                session.give_up()
                self._session = None
        finally:
            await uninterrupted(asyncio.create_task(link.aclose()))

    async def _serve(self, session: Session) -> None:
        try:
            await session.greet(Hello("decode", self._name, self._identity, self.places))
            await until_first(
                session.receiving(),
                session.sending(),
                session.watching(),
                self.scheduler.join(),
            )
        except (PeerLostError, PeerMismatchError):
            raise  # it is gone, or knows
        except LinkProtocolError as error:
            await session.say_last(Refused(str(error)))
            raise
        except Exception:  # what stopped the scheduler has ended the requests
            await session.say_last(Bye())
            raise
        await session.say_last(Bye())

    @asynccontextmanager
    async def serving(self, link: KVLink) -> AsyncIterator[None]:
        """Serve a link of this process while the block lasts.

        What ends the serving is logged, and the other end of the link learns of it.
        """
        task = asyncio.create_task(self._serve_logged(link), name="aio-sched-decode-worker")
        try:
            yield
        finally:
            await cancelled([task])

    async def serve_at(
        self, address: str, *, on_listening: Callable[[str], object] | None = None
    ) -> None:
        """Listen, and serve whoever connects, one at a time, until this is cancelled.

        A link that fails is logged, and the next one is served.

        Args:
            address: see ``connect_link``.
            on_listening: called with the address once others can connect.

        Raises:
            ValueError: an address of no known form.
            OSError: it is in use.
            Exception: what stopped the scheduler.
        """

        async def listening() -> None:
            await serve_links(address, self._serve_logged, on_listening=on_listening)

        await until_first(self.scheduler.join(), listening())

    async def _serve_logged(self, link: KVLink) -> None:
        try:
            await self.serve(link)
        except (PeerLostError, PeerMismatchError, LinkProtocolError) as error:
            log.warning("link_ended", peer=link.peer, error=repr(error))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.error("serving_failed", peer=link.peer, error=repr(error))
