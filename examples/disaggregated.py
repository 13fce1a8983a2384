"""Prompts are read in this process and continued in another one, which this one starts.

python examples/disaggregated.py [folder for the timelines of both]

Each process has its device and its scheduler. When a prompt is read, its keys and values go over
a socket and its tokens come back, so that reading long prompts is in no running text's way.
"""

import asyncio
import sys
import time
from asyncio.subprocess import PIPE
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from aio_sched import Request, SamplingParams, TraceRecorder, load_model, open_device
from aio_sched.bench.report import percentiles, print_table, table
from aio_sched.disaggregated import DecodeWorker, DisaggregatedEngine, connect_link

PROMPTS = [
    "The with statement is used to",
    "A generator function is",
    "If the class has a",
    "An expression is evaluated from left to right. " * 7,
    "The following example",
    "Names are resolved in the following order. " * 7,
]


async def decode(address: str, picture: str) -> None:
    """Be the other process: continue what is handed over, until standard input is closed."""
    trace = TraceRecorder()
    with open_device("cpu") as device:
        async with DecodeWorker(load_model(), device, monitors=(trace,)) as worker:
            serving = asyncio.create_task(
                worker.serve_at(address, on_listening=lambda at: print(at, flush=True))
            )
            await asyncio.to_thread(sys.stdin.read)
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving
    trace.picture(picture, last=8, title="the process that decodes")


async def continue_text(engine: DisaggregatedEngine, number: int) -> tuple[Request, list[float]]:
    """Read one text; return when each token came, from when it was asked for."""
    await asyncio.sleep(0.05 * number)
    began_s = time.perf_counter()
    request = engine.submit(PROMPTS[number], SamplingParams(max_tokens=96))
    return request, [time.perf_counter() - began_s async for _ in engine.stream(request)]


def show(texts: list[tuple[Request, list[float]]]) -> None:
    """Print what each text has cost, and how it goes on."""
    rows = []
    for request, times_s in texts:
        gaps = percentiles((b - a) * 1e3 for a, b in pairwise(times_s))
        end = request.prompt[-20:] + b"|" + bytes(request.output)[:30]
        text = end.decode(errors="replace").replace("\n", " ")
        tokens = len(request.prompt), len(request.output)
        rows.append([*tokens, round(times_s[0] * 1e3), gaps["p50"], gaps["p99"], text])
    columns = ["prompt tokens", "tokens", "first token, ms", "next one p50, ms", "p99", "text"]
    print_table(table("read here, continued there", columns, rows))


async def prefill(address: str, picture: str) -> None:
    """Be this process: read prompts, and hand out what comes back."""
    trace = TraceRecorder()
    with open_device("cpu") as device:
        link = await connect_link(address)
        async with DisaggregatedEngine(load_model(), device, link, monitors=(trace,)) as engine:
            numbers = range(len(PROMPTS))
            show(await asyncio.gather(*(continue_text(engine, number) for number in numbers)))
    print(f"{engine.scheduler.stats.steps} steps here, all of them prefills")
    trace.picture(picture, last=8, title="the process that reads prompts")


async def main(folder: str = ".") -> None:
    """Start the other process, and be this one."""
    pictures = [str(Path(folder) / f"disaggregated-{side}.svg") for side in ("prefill", "decode")]
    with TemporaryDirectory() as own:  # whoever can connect can hand over: nobody else shall
        command = [sys.executable, __file__, "decode", f"unix:{own}/link", pictures[1]]
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = (await process.stdout.readline()).decode().strip()
            await prefill(address, pictures[0])
        finally:
            process.stdin.close()  # with that it ends
            await process.wait()
    print(f"timelines in {' and '.join(pictures)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    arguments = sys.argv[1:]
    asyncio.run(decode(*arguments[1:]) if arguments[:1] == ["decode"] else main(*arguments))
