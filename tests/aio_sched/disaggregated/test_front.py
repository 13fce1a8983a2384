"""The front and its decode side: room, aborts, and what happens when the other one is gone."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from aio_sched.disaggregated.engine import DisaggregatedEngine
from aio_sched.disaggregated.errors import (
    LinkProtocolError,
    PeerLostError,
    PeerMismatchError,
    RemoteRequestError,
)
from aio_sched.disaggregated.fingerprint import identity_of
from aio_sched.disaggregated.link import local_link
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
from aio_sched.engine.errors import EngineBusyError, RequestAbortedError, RequestFailedError
from aio_sched.engine.requests import FinishReason, Request, SamplingParams
from streams.device import open_device
from tests.aio_sched.disaggregated.fakes import alone, in_virtual_time
from tests.aio_sched.disaggregated.sides import assert_both_at_rest, opened
from tests.aio_sched.engine.tiny import rigged

PROMPT = bytes([1, 2, 3, 4, 5])
"""Its greedy continuation does not end at once."""
SOME = SamplingParams(max_tokens=20)


async def read(engine: DisaggregatedEngine, request: Request) -> bytes:
    """Read a request to its end."""
    return bytes([token async for token in engine.stream(request)])


async def settled() -> None:
    """Let everything happen that happens without anybody's doing."""
    await asyncio.sleep(1.0)


# Room -----------------------------------------------------------------------------


def test_full_decode_side_stops_admission_up_to_submit() -> None:
    """No place there: no prefill here, and one more than may wait is refused; a place goes on."""

    async def main() -> None:
        async with alone(places=2, max_waiting=1) as (engine, fake):
            requests = [engine.submit(PROMPT, SOME) for _ in range(3)]
            first, second = (await fake.handed()).id, (await fake.handed()).id
            await settled()
            assert [first, second] == [requests[0].id, requests[1].id]
            assert list(engine.pipeline.waiting) == requests[2:]
            assert engine.pipeline.running == []
            with pytest.raises(EngineBusyError, match="1 requests wait already"):
                engine.submit(PROMPT, SOME)
            await fake.end(first)
            assert (await fake.handed()).id == requests[2].id
            await settled()
            assert engine.pipeline.credits.holders == {requests[1].id, requests[2].id}

    in_virtual_time(main)


def test_request_that_ends_with_its_first_token_goes_nowhere() -> None:
    """Its place is free for the next one, without a word to the decode side."""

    async def main() -> None:
        async with alone(places=1) as (engine, fake):
            assert len(await read(engine, engine.submit(PROMPT, SamplingParams(max_tokens=1)))) == 1
            await engine.drained()
            engine.submit(PROMPT, SOME)
            assert (await fake.handed()).id == 1
            assert len(fake.got) == 1

    in_virtual_time(main)


def test_texts_go_on_where_the_decode_side_says() -> None:
    """First the token of the prefill, then those that come, and the end with its reason."""

    async def main() -> None:
        async with alone() as (engine, fake):
            request = engine.submit(PROMPT, SOME)
            reading = asyncio.create_task(read(engine, request))
            handed = await fake.handed()
            await fake.link.send(Progress(((0, b"\x07\x08"),)))
            await fake.end(0, b"\x09")
            assert await reading == bytes([handed.first_token, 7, 8, 9])
            assert request.finish is FinishReason.END_OF_TEXT
            assert handed.prompt == PROMPT
            assert handed.params == request.params
            assert handed.keys.shape == handed.values.shape == (5, 2, 2, 8)
            await engine.drained()

    in_virtual_time(main)


# Aborts ---------------------------------------------------------------------------


def test_abort_of_a_request_that_is_away_keeps_its_place_until_it_has_ended_there() -> None:
    """The reader is told at once; drained() waits for the other side."""

    async def main() -> None:
        async with alone(places=1) as (engine, fake):
            request = engine.submit(PROMPT, SOME)
            await fake.handed()
            engine.abort(request)
            assert request.finish is FinishReason.ABORTED
            assert await fake.next() == Abort(0)
            await settled()
            assert engine.pipeline.credits.num_left == 0
            assert not engine.pipeline.is_empty.is_set()
            engine.abort(request)  # once is enough
            await fake.end(0, b"\x01\x02")
            await engine.drained()
            assert len(request.output) <= 1
            assert fake.got[1:] == [Abort(0)]

    in_virtual_time(main)


def test_abort_before_the_rows_are_sent_sends_none() -> None:
    """Those in the outbox of a link without room; the one on its way is called back."""

    async def main() -> None:
        async with alone(places=4, capacity=1) as (engine, fake):
            requests = [engine.submit(PROMPT, SOME) for _ in range(4)]
            await settled()  # one was taken by the link, one waits in it, two in the outbox
            for request in requests:
                engine.abort(request)
            got = [await fake.handed(), await fake.handed()]
            assert [await fake.next(), await fake.next()] == [Abort(each.id) for each in got]
            for each in got:
                await fake.end(each.id)
            await engine.drained()
            assert engine.pipeline.credits.num_left == 4

    in_virtual_time(main)


def test_place_of_a_request_called_back_goes_to_the_one_that_waits() -> None:
    """At once, although neither side says or does anything else."""

    async def main() -> None:
        async with alone(places=3, capacity=1) as (engine, _):
            requests = [engine.submit(PROMPT, SOME) for _ in range(4)]
            await settled()
            assert list(engine.pipeline.waiting) == requests[3:]
            engine.abort(requests[2])
            await settled()
            assert list(engine.pipeline.waiting) == []
            assert requests[3].id in engine.pipeline.away

    in_virtual_time(main)


def test_abort_of_what_waits_or_is_read_gives_the_place_back() -> None:
    """Nothing reaches the decode side."""

    async def main() -> None:
        async with alone(places=2) as (engine, fake):
            requests = [engine.submit(bytes([1]) * 40, SOME) for _ in range(4)]
            await asyncio.sleep(0.0005)
            assert len(engine.pipeline.running) == 2
            for request in requests:
                engine.abort(request)
            await engine.drained()
            assert engine.pipeline.credits.num_left == 2
            assert fake.got == []

    in_virtual_time(main)


def test_reader_that_leaves_frees_the_slot_there() -> None:
    """And the next request gets it, with both real sides."""

    async def main() -> None:
        with open_device("sim") as device:
            sides = opened((device, device), max_running=1, queue=0)
            async with sides.running() as engine:
                for _ in range(3):
                    async with aclosing(engine.generate(PROMPT, SOME)) as tokens:
                        for _ in range(3):
                            await anext(tokens)
                    await engine.drained()
                    await sides.worker.pipeline.is_empty.wait()
                    assert_both_at_rest(sides)

    in_virtual_time(main)


# The other side is gone -------------------------------------------------------------


def test_decode_side_that_is_gone_fails_all_requests_by_name() -> None:
    """Those there, those read here and those that wait; and no further one is taken."""

    async def main() -> None:
        async with alone(places=2) as (engine, fake):
            requests = [engine.submit(PROMPT, SOME) for _ in range(4)]
            reading = [asyncio.create_task(read(engine, each)) for each in requests]
            await fake.handed()
            await fake.link.aclose()
            for task in reading:
                with pytest.raises(RequestFailedError) as raised:
                    await task
                assert isinstance(raised.value.__cause__, PeerLostError)
                assert "decode" in str(raised.value.__cause__)
            with pytest.raises(PeerLostError, match="connect a new engine"):
                engine.submit(PROMPT, SOME)
            await engine.drained()
            await settled()
            assert engine.pipeline.credits.holders == frozenset()
            assert engine.pipeline.running == []

    in_virtual_time(main)


def test_silent_decode_side_is_lost_within_the_deadline() -> None:
    """It is asked once, and then named."""

    async def main() -> None:
        async with alone(peer_deadline_s=4.0) as (engine, fake):
            loop = asyncio.get_running_loop()
            request = engine.submit(PROMPT, SOME)
            await fake.handed()
            since = loop.time()
            with pytest.raises(RequestFailedError, match=r"decode gave no sign of life for 4\.0 s"):
                await read(engine, request)
            assert loop.time() - since <= 4.0
            assert await fake.next() == Ping()

    in_virtual_time(main)


def test_front_that_is_asked_answers() -> None:
    """Also when it has nothing to ask for; so it keeps its decode side."""

    async def main() -> None:
        async with alone() as (_, fake):
            await fake.link.send(Ping())
            assert await fake.next() == Pong()

    in_virtual_time(main)


def test_decode_side_that_answers_may_take_its_time() -> None:
    """A minute for a token is slow and not the end; nobody is asked when nobody is away."""

    async def main() -> None:
        async with alone(peer_deadline_s=4.0) as (engine, fake):
            request = engine.submit(PROMPT, SOME)
            await fake.handed()
            for _ in range(30):
                assert await fake.next() == Ping()
                await fake.link.send(Pong())
            await fake.end(0)
            await read(engine, request)
            num_asked = len(fake.got)
            waiting = asyncio.create_task(fake.next())
            await asyncio.sleep(1000.0)
            assert len(fake.got) == num_asked
            waiting.cancel()

    in_virtual_time(main)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (Bye(), PeerLostError),
        (Refused("tired"), PeerLostError),
        (Progress(((7, b"\x01"),)), LinkProtocolError),
        (Progress((), (Ended(7, FinishReason.STOP),)), LinkProtocolError),
        (Abort(0), LinkProtocolError),
    ],
)
def test_decode_side_that_says_what_it_may_not_ends_the_link(
    said: Any, error: type[Exception]
) -> None:
    """Requests that nobody gave it, messages of a prefill side, or its end."""

    async def main() -> None:
        async with alone() as (engine, fake):
            request = engine.submit(PROMPT, SOME)
            await fake.handed()
            await fake.link.send(said)
            with pytest.raises(RequestFailedError) as raised:
                await read(engine, request)
            assert isinstance(raised.value.__cause__, error)
            await settled()
            with pytest.raises(PeerLostError):
                await fake.link.send(Pong())

    in_virtual_time(main)


def test_engine_that_ends_says_goodbye_and_aborts_what_is_away() -> None:
    """Its readers learn that it stopped."""

    async def main() -> None:
        async with alone() as (engine, fake):
            request = engine.submit(PROMPT, SOME)
            reading = asyncio.create_task(read(engine, request))
            assert isinstance(await fake.next(), HandOver)
        with pytest.raises(RequestAbortedError, match="the engine stopped"):
            await reading
        assert await fake.next() == Bye()
        with pytest.raises(PeerLostError):
            await fake.next()

    in_virtual_time(main)


def test_step_that_fails_there_fails_its_requests_here() -> None:
    """With what that side knows; the next request is continued."""

    async def main() -> None:
        model = rigged()
        with open_device("sim") as device:
            sides = opened((device, device), model)
            async with sides.running() as engine:
                model.fail_next("decode", RuntimeError("out of luck"))
                with pytest.raises(RequestFailedError) as raised:
                    await engine.complete(PROMPT, SOME)
                assert isinstance(raised.value.__cause__, RemoteRequestError)
                assert "decode: RuntimeError('out of luck')" in str(raised.value.__cause__)
                assert await engine.complete(PROMPT, SOME)
                await engine.drained()
                assert_both_at_rest(sides)

    in_virtual_time(main)


# The beginning ----------------------------------------------------------------------


def test_engine_does_not_start_with_another_model_there() -> None:
    """Nor with somebody that refuses, is no decode side, or says nothing."""

    async def fail(said: Any, error: type[Exception], message: str) -> None:
        near, far = local_link()
        with open_device("sim") as device:
            engine = DisaggregatedEngine(rigged(), device, near, peer_deadline_s=2.0)
            if said is not None:
                await far.send(said)
            with pytest.raises(error, match=message):
                await engine.__aenter__()
            assert device.streams == ()
            assert isinstance(await far.receive(), Hello)

    async def main() -> None:
        other = rigged()
        next(other.parameters()).flatten()[0] += 1
        theirs = Hello("decode", "fake", identity_of(other), 2)
        await fail(theirs, PeerMismatchError, "decode, fake, has another model: its weights")
        await fail(Refused("busy"), PeerLostError, "decode refuses to serve us: busy")
        await fail(Bye(), LinkProtocolError, "decode began with Bye")
        same = Hello("prefill", "fake", identity_of(rigged()))
        await fail(same, LinkProtocolError, "decode began with Hello")
        none = Hello("decode", "fake", identity_of(rigged()), 0)
        await fail(none, LinkProtocolError, "decode offers 0 places")
        await fail(None, PeerLostError, "decode did not say hello within 2.0 s")

    in_virtual_time(main)
