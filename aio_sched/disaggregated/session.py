"""One link of the decode side: what comes and goes on it, and the requests that it brings."""

import asyncio
from contextlib import suppress

from aio_sched.disaggregated.decode import ArrivedRequest, DecodePipeline
from aio_sched.disaggregated.errors import LinkClosedError, LinkProtocolError, PeerLostError
from aio_sched.disaggregated.greeting import greet
from aio_sched.disaggregated.link import KVLink
from aio_sched.disaggregated.messages import (
    Abort,
    Bye,
    Ended,
    HandOver,
    Hello,
    Message,
    Ping,
    Pong,
    Progress,
    Refused,
)
from aio_sched.engine.requests import FinishReason
from aio_sched.lifecycle import Scheduler
from aio_sched.wakeup import Wakeup

__all__ = ["Session"]


class Session:
    """One link, and the requests that it has brought.

    Args:
        pipeline: what continues them.
        scheduler: runs it.
        link: to a prefill side.
        places: requests that it may bring at once.
        peer_deadline_s: seconds that the other side has for whatever it is to do.
    """

    def __init__(
        self,
        pipeline: DecodePipeline,
        scheduler: Scheduler,
        link: KVLink,
        places: int,
        peer_deadline_s: float,
    ) -> None:
        self._pipeline = pipeline
        self._scheduler = scheduler
        self._link = link
        self._places = places
        self._deadline_s = peer_deadline_s
        self._news = Wakeup()
        self._requests: dict[int, ArrivedRequest] = {}
        self._must_answer = False
        self._must_ask = False
        self._was_asked = Wakeup()
        self._was_heard = True

    async def greet(self, hello: Hello) -> None:
        """Say hello and wait for the other side's; raises as ``greet`` does."""
        await greet(self._link, hello, self._deadline_s)

    async def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            PeerLostError: the other side is gone, or does not take it in time.
        """
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._link.send(message)
        except TimeoutError as error:
            raise PeerLostError(
                f"{self._link.peer} has taken nothing for {self._deadline_s} s; "
                "its requests are given up"
            ) from error

    async def refuse(self, why: str) -> None:
        """Let the other side know, which has greeted: unread bytes would take this with them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._deadline_s):
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
            self._was_heard = True
            match message:
                case HandOver():
                    self._take_over(message)
                case Abort():
                    self._abort(message.id)
                case Ping():
                    self._must_answer = True
                    self._news.set()
                case Pong():
                    pass
                case _:
                    raise LinkProtocolError(f"{self._link.peer} sent {message} to a decode side")

    async def sending(self) -> None:
        """Tell of tokens and ends as they come, all that there are at once."""
        while True:
            await self._news.wait()
            if self._must_answer:
                self._must_answer = False
                await self.send(Pong())
            if self._must_ask:
                self._must_ask = False
                await self.send(Ping())
            if (progress := self._progress()) != Progress():
                await self.send(progress)

    async def watching(self) -> None:
        """See that the other side is there whenever it was asked for, which costs nothing before.

        One whose machine is gone leaves a connection that never ends.

        Raises:
            PeerLostError: it has not answered in time.
        """
        while True:
            await self._was_asked.wait()
            self._was_heard = False
            self._must_ask = True
            self._news.set()
            await asyncio.sleep(self._deadline_s)
            if not self._was_heard:
                raise PeerLostError(
                    f"{self._link.peer} has not answered for {self._deadline_s} s, and another "
                    "prefill side wants its place; its requests are given up"
                )

    def ask(self) -> None:
        """Find out whether the other side is still there."""
        self._was_asked.set()

    def give_up(self) -> None:
        """Abort what the link has brought; slots are free when the device is done with them."""
        for request in self._requests.values():
            self._pipeline.finish(request, FinishReason.ABORTED)
        self._requests.clear()

    def _take_over(self, handed: HandOver) -> None:
        if handed.id in self._requests or len(self._requests) >= self._places:
            raise LinkProtocolError(
                f"{self._link.peer} handed request {handed.id} over, and all "
                f"{self._places} places are taken, or one by it"
            )
        self._requests[handed.id] = self._pipeline.arrive(handed, self._news)
        self._scheduler.wake()

    def _abort(self, number: int) -> None:
        if (request := self._requests.get(number)) is not None:  # else its end is on its way
            self._pipeline.finish(request, FinishReason.ABORTED)
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
