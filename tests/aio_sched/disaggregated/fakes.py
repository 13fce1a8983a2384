"""One side of a link played by the test, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import torch

from aio_sched.disaggregated.engine import DisaggregatedEngine
from aio_sched.disaggregated.fingerprint import identity_of
from aio_sched.disaggregated.link import KVLink, local_link
from aio_sched.disaggregated.messages import Ended, HandOver, Hello, Message, Progress
from aio_sched.disaggregated.worker import DecodeWorker
from aio_sched.engine.requests import FinishReason, SamplingParams
from aio_sched.testing import virtual_run
from streams.device import open_device
from tests.aio_sched.engine.tiny import CHUNK, TINY, RiggedModel, rigged

__all__ = ["FakeDecode", "FakePrefill", "alone", "handed", "in_virtual_time", "worker_alone"]

T = TypeVar("T")


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``main`` under a few orders of its tasks; return what it gave last."""
    for seed in range(3):
        result = virtual_run(main(), seed=seed)
    return result


class FakeDecode:
    """A decode side that does what it is told, and notes what it gets."""

    def __init__(self, link: KVLink) -> None:
        self.link = link
        self.got: list[Message] = []

    async def greet(self, places: int) -> None:
        """Say hello."""
        await self.link.send(Hello("decode", "fake", identity_of(rigged()), places))
        assert isinstance(await self.link.receive(), Hello)

    async def next(self) -> Message:
        """Take the next message."""
        self.got.append(await self.link.receive())
        return self.got[-1]

    async def handed(self) -> HandOver:
        """Take the next message, a hand-over."""
        message = await self.next()
        assert isinstance(message, HandOver)
        return message

    async def end(self, number: int, tokens: bytes = b"") -> None:
        """Say that a request has ended."""
        said = ((number, tokens),) if tokens else ()
        await self.link.send(Progress(said, (Ended(number, FinishReason.END_OF_TEXT),)))


@asynccontextmanager
async def alone(
    *, places: int = 2, capacity: int = 16, model: RiggedModel | None = None, **options: Any
) -> AsyncIterator[tuple[DisaggregatedEngine, FakeDecode]]:
    """Run an engine on a simulated device with a fake decode side."""
    near, far = local_link(capacity=capacity)
    fake = FakeDecode(far)
    sizes: dict[str, Any] = {"prefill_rows": 2, "chunk": CHUNK, "max_prefilling": 2}
    with open_device("sim") as device:
        engine = DisaggregatedEngine(model or rigged(), device, near, **sizes | options)
        greeting = asyncio.create_task(fake.greet(places))
        async with engine:
            await greeting
            yield engine, fake
        assert device.streams == ()


class FakePrefill:
    """A prefill side that does what it is told."""

    def __init__(self, link: KVLink) -> None:
        self.link = link

    async def greet(self) -> Hello:
        """Say hello; return what comes back."""
        await self.link.send(Hello("prefill", "fake", identity_of(rigged())))
        hello = await self.link.receive()
        assert isinstance(hello, Hello)
        return hello


@asynccontextmanager
async def worker_alone(
    *, model: RiggedModel | None = None, **options: Any
) -> AsyncIterator[tuple[DecodeWorker, "asyncio.Task[None]", FakePrefill]]:
    """Run a worker on a simulated device that serves a fake prefill side."""
    near, far = local_link()
    sizes: dict[str, Any] = {"max_running": 2, "queue": 1}
    with open_device("sim") as device:
        async with DecodeWorker(model or rigged(), device, **sizes | options) as worker:
            serving = asyncio.create_task(worker.serve(far))
            yield worker, serving, FakePrefill(near)
            serving.cancel()
            await asyncio.wait([serving])


def handed(number: int, num_tokens: int = 3, **changes: Any) -> HandOver:
    """Make a hand-over that the tiny model can go on with."""
    rows = torch.zeros(num_tokens, TINY.num_layers, TINY.num_heads, TINY.head_dim)
    fields = {
        "prompt": bytes(range(1, num_tokens + 1)),
        "params": SamplingParams(max_tokens=40),
        "first_token": 1,
        "keys": rows,
        "values": rows,
    }
    return HandOver(number, **fields | changes)  # type: ignore[arg-type]  # each has its type
