"""One side in a process of its own: ``python -m`` this, with ``decode`` or ``prefill`` first.

``decode ADDRESS`` listens there, and prints the address once it does. ``prefill ADDRESS``
connects, submits requests, and prints a line when the decode side writes one of them.
"""

import asyncio
import sys

import torch

from aio_sched.disaggregated.engine import DisaggregatedEngine
from aio_sched.disaggregated.sockets import connect_link
from aio_sched.disaggregated.worker import DecodeWorker
from aio_sched.engine.requests import SamplingParams
from streams.device import open_device
from tests.aio_sched.engine.tiny import CHUNK, rigged


async def decode(address: str) -> None:
    """Serve until killed."""
    with open_device("cpu") as device:
        async with DecodeWorker(rigged(), device, max_running=2, queue=2) as worker:
            await worker.serve_at(address, on_listening=_say)


async def prefill(address: str) -> None:
    """Keep the decode side busy until killed."""
    with open_device("cpu") as device:
        link = await connect_link(address)
        async with DisaggregatedEngine(rigged(), device, link, chunk=CHUNK) as engine:
            while True:
                request = engine.submit(bytes([1, 2, 3, 4]), SamplingParams(max_tokens=59))
                async for _ in engine.stream(request):
                    if len(request.output) == 2:
                        _say("decoding")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    asyncio.run({"decode": decode, "prefill": prefill}[sys.argv[1]](sys.argv[2]))
