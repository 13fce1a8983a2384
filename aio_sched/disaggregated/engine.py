"""The front: prompts in, token streams out, whichever side writes them."""

import asyncio
from types import TracebackType
from typing import Self, Unpack

from aio_sched.config import SchedulerOptions
from aio_sched.disaggregated.errors import LinkClosedError, LinkProtocolError, PeerLostError
from aio_sched.disaggregated.fingerprint import identity_of
from aio_sched.disaggregated.first import cancelled, until_first
from aio_sched.disaggregated.greeting import greet
from aio_sched.disaggregated.link import KVLink
from aio_sched.disaggregated.messages import Bye, Hello, Ping, Pong, Progress, Refused
from aio_sched.disaggregated.prefill import PrefillPipeline
from aio_sched.engine.admission import Limits
from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.requests import Request, SamplingParams
from aio_sched.engine.text_engine import TextEngine
from aio_sched.uninterrupted import uninterrupted
from streams.device import Device
from streams.log import get_logger

__all__ = ["DisaggregatedEngine"]

log = get_logger("disaggregated")


class DisaggregatedEngine(TextEngine[PrefillPipeline]):
    """Continues prompts that are read here and written on by a ``DecodeWorker``.

    To be used like ``Engine``, with the same results. A request that no place on the decode
    side is free for waits here, and ``max_waiting`` of them make ``submit`` raise. If the
    decode side is lost, all requests end with ``PeerLostError`` as the cause, and ``submit``
    raises it: make another engine with a new link.

    Args:
        model: the built-in transformer, on ``device``; the decode side has the same.
        device: an open device; it stays open.
        link: to a decode side; closed with the engine.
        max_prefilling: prompts that hold a slot on this side.
        max_waiting: requests that may wait for both; one more is refused.
        prefill_rows: prompts that one step reads on.
        chunk: bytes of each that it reads.
        overlap: False runs the same pipeline one step at a time.
        peer_deadline_s: seconds without a sign of life after which the decode side counts as
            lost, while it has requests.
        options: the scheduler's. On a device with others it needs its own ``name``.

    Raises:
        ValueError: a number out of range, or a model that is on another device or that does
            not write bytes.
    """

    def __init__(
        self,
        model: ByteTransformer,
        device: Device,
        link: KVLink,
        *,
        max_prefilling: int = 4,
        max_waiting: int = 1024,
        prefill_rows: int = 4,
        chunk: int = 64,
        overlap: bool = True,
        peer_deadline_s: float = 10.0,
        **options: Unpack[SchedulerOptions],
    ) -> None:
        if peer_deadline_s <= 0:
            raise ValueError(f"peer_deadline_s={peer_deadline_s} is not positive")
        limits = Limits(max_prefilling, prefill_rows, chunk)
        pipeline = PrefillPipeline(model, device, limits, depth=options.get("depth", 2))
        super().__init__(pipeline, device, max_waiting=max_waiting, overlap=overlap, **options)
        self.link = link
        link.max_body = 0  # nobody hands over to this side
        self.peer_deadline_s = peer_deadline_s
        self._hello = Hello("prefill", "the prefill side", identity_of(model))
        self._was_heard = True
        self._talking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Greet the decode side, and start.

        Raises:
            PeerLostError: it is gone, serves somebody else, or does not answer in time.
            PeerMismatchError: it has another model or version.
        """
        try:
            other = await greet(self.link, self._hello, self.peer_deadline_s)
            await super().__aenter__()
        except BaseException:
            await self._close_link()
            raise
        self.pipeline.granted(other.places)
        self._talking = asyncio.create_task(self._talk(), name="aio-sched-kv-link")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await super().__aexit__(exc_type, exc, traceback)
        finally:
            if self._talking is not None:
                await cancelled([self._talking])
            await self._close_link()

    def submit(self, prompt: str | bytes, params: SamplingParams | None = None) -> Request:
        """Queue a prompt; see ``TextEngine.submit``.

        Raises:
            PeerLostError: the decode side is lost.
        """
        if self.pipeline.lost is not None:
            raise PeerLostError(
                "no request can be continued any more; connect a new engine to a decode side"
            ) from self.pipeline.lost
        return super().submit(prompt, params)

    # The link ---------------------------------------------------------------

    async def _talk(self) -> None:
        """Send, receive and watch, until the end of the engine or of the other side."""
        try:
            await until_first(self._sending(), self._receiving(), self._watching())
        except Exception as error:
            log.error("decode_side_lost", peer=self.link.peer, error=repr(error))
            self.pipeline.peer_lost(error)
            await self._close_link()

    async def _sending(self) -> None:
        outbox, news = self.pipeline.outbox, self.pipeline.news
        while True:
            await news.wait()
            while outbox:
                await self.link.send(outbox.popleft())

    async def _receiving(self) -> None:
        peer = self.link.peer
        while True:
            message = await self.link.receive()
            self._was_heard = True
            match message:
                case Progress():
                    self.pipeline.progressed(message, peer)
                case Bye():
                    raise PeerLostError(f"{peer} has said goodbye; start it again")
                case Refused():
                    raise PeerLostError(f"{peer} refuses to serve us: {message.why}")
                case Ping():
                    self.pipeline.outbox.append(Pong())
                    self.pipeline.news.set()
                case Pong():
                    pass
                case _:
                    raise LinkProtocolError(f"{peer} sent {message} to a prefill side")

    async def _watching(self) -> None:
        """See that the decode side gives a sign of life while it has requests."""
        while True:
            while not self.pipeline.away:
                await self.pipeline.sent_away.wait()
            self._was_heard = False
            await asyncio.sleep(self.peer_deadline_s / 2)
            if self._was_heard or not self.pipeline.away:
                continue
            self.pipeline.outbox.append(Ping())
            self.pipeline.news.set()
            await asyncio.sleep(self.peer_deadline_s / 2)
            if not self._was_heard:
                raise PeerLostError(
                    f"{self.link.peer} gave no sign of life for {self.peer_deadline_s} s; see "
                    "whether its process hangs, or raise peer_deadline_s"
                )

    async def _close_link(self) -> None:
        await uninterrupted(asyncio.create_task(self._say_goodbye()))

    async def _say_goodbye(self) -> None:
        try:
            if self.pipeline.lost is None:
                async with asyncio.timeout(1.0):
                    await self.link.send(Bye())
        except (TimeoutError, PeerLostError, LinkClosedError):
            pass  # then it learns it from the closed connection
        finally:
            await self.link.aclose()
