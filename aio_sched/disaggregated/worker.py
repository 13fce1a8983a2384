"""The decode side as a service: it serves one link after another."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Self, Unpack

from aio_sched.config import SchedulerOptions
from aio_sched.disaggregated.decode import ArrivedRequest, DecodePipeline
from aio_sched.disaggregated.errors import (
    LinkClosedError,
    LinkProtocolError,
    PeerLostError,
    PeerMismatchError,
)
from aio_sched.disaggregated.fingerprint import identity_of
from aio_sched.disaggregated.first import cancelled, until_first
from aio_sched.disaggregated.greeting import greet
from aio_sched.disaggregated.link import KVLink
from aio_sched.disaggregated.messages import (
    Abort,
    Bye,
    Ended,
    HandOver,
    Hello,
    Ping,
    Pong,
    Progress,
    Refused,
)
from aio_sched.disaggregated.sockets import serve_links
from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.requests import FinishReason
from aio_sched.lifecycle import Scheduler
from aio_sched.loop import OverlapScheduler, SequentialScheduler
from aio_sched.uninterrupted import uninterrupted
from aio_sched.wakeup import Wakeup
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
        peer_deadline_s: seconds that the other side has to greet, and to take what is sent.
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
        self._is_serving = False

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
            PeerLostError: it is gone, or did not greet or take what was sent in time.
            LinkProtocolError: it sent what it may not send, or too much.
            Exception: what stopped the scheduler.
        """
        session = _Session(self, link)
        link.max_body = self.pipeline.max_len * (self.pipeline.row_bytes + 1)
        try:
            if self._is_serving:
                await session.refuse(f"{self._name} serves another prefill side already")
                return
            self._is_serving = True
            try:
                await self._serve(session)
            finally:
                session.give_up()
                self._is_serving = False
        finally:
            await uninterrupted(asyncio.create_task(link.aclose()))

    async def _serve(self, session: "_Session") -> None:
        try:
            await session.greet(Hello("decode", self._name, self._identity, self.places))
            await until_first(session.receiving(), session.sending(), self.scheduler.join())
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


class _Session:
    """One link, and the requests that it has brought."""

    def __init__(self, worker: DecodeWorker, link: KVLink) -> None:
        self._worker = worker
        self._link = link
        self._news = Wakeup()
        self._requests: dict[int, ArrivedRequest] = {}
        self._must_answer = False

    async def greet(self, hello: Hello) -> None:
        await greet(self._link, hello, self._worker.peer_deadline_s)

    async def send(self, message: Progress | Pong | Refused | Bye) -> None:
        deadline_s = self._worker.peer_deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                await self._link.send(message)
        except TimeoutError as error:
            raise PeerLostError(
                f"{self._link.peer} has taken nothing for {deadline_s} s; its requests are given up"
            ) from error

    async def refuse(self, why: str) -> None:
        """Let the other side know, which has greeted: unread bytes would take this with them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._worker.peer_deadline_s):
                await self._link.receive()
        await self.send(Refused(why))

    async def say_last(self, message: Refused | Bye) -> None:
        """Tell what is left to be told, if anybody listens."""
        try:
            if (progress := self._progress()) != Progress():
                await self.send(progress)
            await self.send(message)
        except (PeerLostError, LinkClosedError):
            return

    async def receiving(self) -> None:
        """Take what comes, until ``Bye``."""
        while not isinstance(message := await self._link.receive(), Bye):
            match message:
                case HandOver():
                    self._take_over(message)
                case Abort():
                    self._abort(message.id)
                case Ping():
                    self._must_answer = True
                    self._news.set()
                case _:
                    raise LinkProtocolError(f"{self._link.peer} sent {message} to a decode side")

    async def sending(self) -> None:
        """Tell of tokens and ends as they come, all that there are at once."""
        while True:
            await self._news.wait()
            if self._must_answer:
                self._must_answer = False
                await self.send(Pong())
            if (progress := self._progress()) != Progress():
                await self.send(progress)

    def give_up(self) -> None:
        """Abort what the link has brought; slots are free when the device is done with them."""
        for request in self._requests.values():
            self._worker.pipeline.finish(request, FinishReason.ABORTED)
        self._requests.clear()

    def _take_over(self, handed: HandOver) -> None:
        if handed.id in self._requests or len(self._requests) >= self._worker.places:
            raise LinkProtocolError(
                f"{self._link.peer} handed request {handed.id} over, and all "
                f"{self._worker.places} places are taken, or one by it"
            )
        self._requests[handed.id] = self._worker.pipeline.arrive(handed, self._news)
        self._worker.scheduler.wake()

    def _abort(self, number: int) -> None:
        if (request := self._requests.get(number)) is not None:  # else its end is on its way
            self._worker.pipeline.finish(request, FinishReason.ABORTED)
            self._news.set()

    def _progress(self) -> Progress:
        tokens, ended = [], []
        for number, request in list(self._requests.items()):
            if request.unread:
                tokens.append((number, bytes(request.unread)))
                request.unread.clear()
            if request.finish is not None:
                error = "" if request.error is None else repr(request.error)
                ended.append(Ended(number, request.finish, error))
                del self._requests[number]
        return Progress(tuple(tokens), tuple(ended))
