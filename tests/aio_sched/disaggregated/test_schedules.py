"""Both sides under many orders of tasks and timings: room is kept, nothing is lost."""

import asyncio
from contextlib import aclosing, suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aio_sched.disaggregated.engine import DisaggregatedEngine
from aio_sched.disaggregated.link import KVLink
from aio_sched.disaggregated.messages import HandOver, Message, Progress
from aio_sched.engine.errors import RequestAbortedError
from aio_sched.engine.requests import Request, SamplingParams
from aio_sched.testing import Scenario, assert_same_results, virtual_run
from streams.device import open_device
from tests.aio_sched.disaggregated.sides import opened
from tests.hazards.shipped.disaggregated import SHIPPED


class Counted(KVLink):
    """Counts who is on the way or there."""

    def __init__(self, link: KVLink, places: int) -> None:
        self.peer = link.peer
        self.num_handed = 0
        self.most = 0
        self._away: set[int] = set()
        self._link = link
        self._places = places

    async def send(self, message: Message) -> None:
        """Count a hand-over that begins."""
        if isinstance(message, HandOver):
            self._away.add(message.id)
            self.num_handed += 1
            self.most = max(self.most, len(self._away))
            assert len(self._away) <= self._places
        await self._link.send(message)

    async def receive(self) -> Message:
        """Count the ends, of which each is one."""
        message = await self._link.receive()
        if isinstance(message, Progress):
            for ended in message.ended:
                self._away.remove(ended.id)
        return message

    async def aclose(self) -> None:
        """Close it."""
        await self._link.aclose()


readers = st.lists(
    st.tuples(
        st.integers(1, 9),  # tokens of the prompt
        st.integers(1, 12),  # tokens to write
        st.one_of(st.none(), st.floats(0.0, 0.01)),  # seconds until it is aborted
        st.floats(0.0, 0.004),  # seconds until the next one comes
    ),
    min_size=1,
    max_size=10,
)


@given(readers, st.integers(1, 3), st.integers(0, 2), st.integers(1, 3), st.integers(0, 1 << 16))
@settings(
    max_examples=30, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
def test_never_more_are_away_than_there_is_room_and_each_request_ends_once(
    asked: list[tuple[int, int, float | None, float]],
    max_running: int,
    queue: int,
    capacity: int,
    seed: int,
) -> None:
    """Whatever comes, is aborted and waits when; and both sides are at rest afterwards."""

    async def main() -> None:
        with open_device("sim", seed=seed) as one, open_device("sim", seed=seed + 1) as other:
            sides = opened((one, other), max_running=max_running, queue=queue, capacity=capacity)
            link = sides.engine.link = Counted(sides.engine.link, max_running + queue)
            ends: list[int] = []
            async with sides.running() as engine, asyncio.TaskGroup() as group:
                for length, max_tokens, abort_s, pause_s in asked:
                    params = SamplingParams(max_tokens=max_tokens, temperature=1.0, seed=length)
                    request = engine.submit(bytes([3] * length), params)
                    group.create_task(_read(engine, request, abort_s, ends))
                    await asyncio.sleep(pause_s)
            assert sorted(ends) == list(range(len(asked)))
            assert link.most <= max_running + queue
            assert link.num_handed <= len(asked)

    virtual_run(main(), seed=seed)


async def _read(
    engine: DisaggregatedEngine, request: Request, abort_s: float | None, ends: list[int]
) -> None:
    if abort_s is not None:
        asyncio.get_running_loop().call_later(abort_s, engine.abort, request)
    with suppress(RequestAbortedError):
        async with aclosing(engine.stream(request)) as tokens:
            async for _ in tokens:
                pass
    assert request.finish is not None
    ends.append(request.id)


@pytest.mark.parametrize("scenario", [SHIPPED[0], pytest.param(SHIPPED[1], marks=pytest.mark.slow)])
def test_run_that_is_cancelled_at_any_await_leaves_nothing_behind(scenario: Scenario) -> None:
    """Of the scenario and of all stages of both pipelines, natively and by anyio."""
    assert_same_results(scenario, seeds=range(1), strategy="single_cancel")
