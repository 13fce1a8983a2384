"""Two real processes: the same texts, and what either learns when the other is killed."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aio_sched.disaggregated.engine import DisaggregatedEngine
from aio_sched.disaggregated.errors import PeerLostError
from aio_sched.disaggregated.sockets import connect_link
from aio_sched.disaggregated.worker import DecodeWorker
from aio_sched.engine.errors import RequestFailedError
from aio_sched.engine.requests import FinishReason, Request, SamplingParams
from streams.device import open_device
from tests.aio_sched.engine.tiny import CHUNK, rigged, running

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])


@asynccontextmanager
async def started(role: str, address: str) -> AsyncIterator[tuple[Process, str]]:
    """Run a side in a process; give it with its first line."""
    module = "tests.aio_sched.disaggregated.side_process"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, role, address, cwd=ROOT, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def read(engine: DisaggregatedEngine, request: Request) -> bytes:
    """Read a request to its end."""
    return bytes([token async for token in engine.stream(request)])


def asked(number: int) -> tuple[bytes, SamplingParams]:
    """Return one of several requests that differ in everything."""
    prompt = bytes([1 + number % 9, 2, 3, 4, 5, 6][: 2 + number % 5])
    return prompt, SamplingParams(max_tokens=3 + number, temperature=number % 2, seed=number)


async def test_two_processes_write_the_texts_of_one_until_one_is_killed(tmp_path: Path) -> None:
    """Then every request ends at once, with an error that names who is gone."""
    address = f"unix:{tmp_path / 'decode'}"
    async with asyncio.timeout(60.0), started("decode", address) as (process, line):
        assert line == address
        with open_device("cpu") as device:
            link = await connect_link(address)
            engine = DisaggregatedEngine(rigged(), device, link, prefill_rows=2, chunk=CHUNK)
            async with engine:
                requests = [engine.submit(*asked(number)) for number in range(12)]
                apart = await asyncio.gather(*(read(engine, each) for each in requests))
                await engine.drained()
                more = [engine.submit(bytes([1, 2, 3]), _long(seed)) for seed in range(8)]
                reading = [asyncio.create_task(read(engine, each)) for each in more]
                while not any(len(each.output) > 2 for each in more):  # noqa: ASYNC110 - all at once
                    await asyncio.sleep(0)
                process.send_signal(signal.SIGKILL)
                async with asyncio.timeout(5.0):
                    await asyncio.wait(reading)
                failed = [each for each in more if each.finish is FinishReason.ERROR]
                assert failed
                assert all(isinstance(each.error, PeerLostError) for each in failed)
                assert all(address in str(each.error) for each in failed)
                errors = {type(task.exception()) for task in reading}
                assert errors <= {RequestFailedError, type(None)}
                with pytest.raises(PeerLostError):
                    engine.submit(b"\1")
                await engine.drained()
    async with running(rigged(), max_running=2) as one:
        together = [one.submit(*asked(number)) for number in range(12)]
        await one.drained()
    assert apart == [bytes(each.output) for each in together]


def _long(seed: int) -> SamplingParams:
    return SamplingParams(max_tokens=60, temperature=1.0, seed=seed)


@pytest.mark.slow
async def test_stopped_decode_process_is_lost_within_the_deadline(tmp_path: Path) -> None:
    """It is there, and its socket is open; only it says nothing."""
    address = f"unix:{tmp_path / 'decode'}"
    async with asyncio.timeout(60.0), started("decode", address) as (process, _):
        with open_device("cpu") as device:
            link = await connect_link(address)
            async with DisaggregatedEngine(
                rigged(), device, link, chunk=CHUNK, peer_deadline_s=1.0
            ) as engine:
                request = engine.submit(bytes([1, 2, 3]), _long(1))
                async with asyncio.timeout(20.0):
                    tokens = engine.stream(request)
                    for _ in range(3):
                        await anext(tokens)
                    process.send_signal(signal.SIGSTOP)
                    with pytest.raises(RequestFailedError, match="gave no sign of life for 1"):
                        async for _ in tokens:
                            pass
                process.send_signal(signal.SIGCONT)


@pytest.mark.slow
async def test_killed_prefill_process_leaves_its_slots_free() -> None:
    """The worker goes on and serves the next one."""
    with open_device("cpu") as device:
        where: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        async with (
            asyncio.timeout(60.0),
            DecodeWorker(rigged(), device, max_running=2) as worker,
            asyncio.TaskGroup() as group,
        ):
            serving = group.create_task(
                worker.serve_at("tcp:127.0.0.1:0", on_listening=where.set_result)
            )
            for _ in range(2):
                async with started("prefill", await where) as (process, line):
                    assert line == "decoding"
                    assert not worker.pipeline.is_empty.is_set()
                    process.send_signal(signal.SIGKILL)
                    await worker.pipeline.is_empty.wait()
                    assert worker.pipeline.num_free_slots == 2
            serving.cancel()
