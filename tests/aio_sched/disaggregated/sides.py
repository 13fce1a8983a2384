"""Both sides in one event loop, with the tiny model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aio_sched.disaggregated.engine import DisaggregatedEngine
from aio_sched.disaggregated.link import KVLink, local_link
from aio_sched.disaggregated.worker import DecodeWorker
from streams.device import Device, open_device
from tests.aio_sched.engine.tiny import CHUNK, RiggedModel, rigged

__all__ = ["Sides", "assert_both_at_rest", "both", "opened"]


@dataclass
class Sides:
    """Both sides, and the link between them."""

    engine: DisaggregatedEngine
    worker: DecodeWorker
    far: KVLink

    @asynccontextmanager
    async def running(self) -> AsyncIterator[DisaggregatedEngine]:
        """Run both."""
        async with self.worker, self.worker.serving(self.far), self.engine:
            yield self.engine


def opened(
    devices: tuple[Device, Device],
    model: RiggedModel | None = None,
    *,
    max_running: int = 2,
    queue: int = 1,
    capacity: int = 16,
    **options: Any,
) -> Sides:
    """Make both sides, not started."""
    model = rigged() if model is None else model
    near, far = local_link(capacity=capacity)
    common = {key: options[key] for key in ("overlap", "depth", "strict") if key in options}
    sizes: dict[str, Any] = {"prefill_rows": 2, "chunk": CHUNK, "max_prefilling": 2}
    engine = DisaggregatedEngine(model, devices[0], near, name="prefill", **sizes | options)
    worker = DecodeWorker(
        model, devices[1], max_running=max_running, queue=queue, name="decode", **common
    )
    return Sides(engine, worker, far)


@asynccontextmanager
async def both(model: RiggedModel | None = None, **options: Any) -> AsyncIterator[Sides]:
    """Run both sides on a CPU device each."""
    with open_device("cpu") as one, open_device("cpu") as other:
        sides = opened((one, other), model, **options)
        async with asyncio.timeout(30.0), sides.running():
            yield sides
        assert one.streams == other.streams == ()


def assert_both_at_rest(sides: Sides) -> None:
    """Nothing is left of any request on either side."""
    front = sides.engine.pipeline
    assert front.outbox == type(front.outbox)()
    assert front.away == {}
    assert front.credits.holders == frozenset()
    for side in (sides.engine, sides.worker):
        pipeline, turns = side.pipeline, side.scheduler.turns
        assert list(pipeline.waiting) == pipeline.running == []
        assert pipeline.is_empty.is_set()
        assert pipeline._slots.num_free == pipeline.limits.max_running
        assert not turns.in_flight
        assert len(turns.keep_alive) == turns.keep_alive.num_claimed == 0
        assert [stream.queue_before(10**9) for stream in turns.streams] == [[], [], []]
