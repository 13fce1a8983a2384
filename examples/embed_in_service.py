"""An HTTP service on plain asyncio that answers /health while the device works.

python examples/embed_in_service.py [auto | cpu | cuda] [port]
curl localhost:8000/embed/hello
"""

import asyncio
import json
import signal
import sys
from contextlib import closing, suppress
from typing import Any
from urllib.parse import unquote_to_bytes

import torch

import aio_sched
from aio_sched import HostCopy, Inbox, OverlapScheduler, Pipeline, Step

MAX_BATCH, WIDTH = 4, 512


class Embedder(Pipeline[Any, HostCopy]):
    """Turns texts into vectors; a batch keeps the device busy for some milliseconds."""

    def __init__(self, device: aio_sched.Device) -> None:
        self.inbox: Inbox[bytes, list[float]] = Inbox(self.wake, max_waiting=1000)
        self.staging = aio_sched.StagingRing(device, (MAX_BATCH, WIDTH), torch.float32)
        weight = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))
        self.weight = (weight / WIDTH**0.5).to(device.torch_device)

    async def prepare(self, step: Step) -> Any:
        """Send the texts that wait to the device."""
        texts = [list(text[:WIDTH].ljust(WIDTH)) for text in self.inbox.take(step, MAX_BATCH)]
        return self.staging.upload(step.schedule_stream, texts) if texts else None

    async def forward(self, step: Step, inputs: Any) -> HostCopy:
        """Mix the bytes of each text, thoroughly."""
        mixed = step.launch(lambda texts: texts @ self.weight.matrix_power(32), inputs)
        return step.copy_to_host(mixed)

    async def publish(self, step: Step, inputs: Any, output: HostCopy) -> None:
        """Answer with the first numbers of each vector."""
        self.inbox.answer(step, (await output)[:, :8].tolist())


async def respond(scheduler: OverlapScheduler, inbox: Inbox[bytes, Any], path: bytes) -> Any:
    """Return the status and the answer for a path."""
    if path == b"/health":
        return 503 if scheduler.is_stopping else 200, {"open_requests": inbox.num_open}
    if not path.startswith(b"/embed/"):
        return 404, {"error": "ask for /health or /embed/TEXT"}
    try:
        return 200, {"embedding": await inbox.ask(unquote_to_bytes(path[7:]))}
    except aio_sched.AioSchedError as error:  # too many wait, or the scheduler has stopped
        return 503, {"error": str(error)}


async def main(device_name: str = "auto", port: str = "8000") -> None:
    """Serve until SIGTERM; then refuse new connections and answer the open ones."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(task := asyncio.current_task())
        with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
            status, answer = await respond(scheduler, embedder.inbox, path)
            writer.write(f"HTTP/1.0 {status} \r\n\r\n{json.dumps(answer)}\n".encode())
            await writer.drain()
        talks.discard(task)

    stop, talks = asyncio.Event(), set[Any]()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with aio_sched.open_device(device_name) as device:
        embedder = Embedder(device)
        async with OverlapScheduler(embedder, device) as scheduler:
            server = await asyncio.start_server(talk, "127.0.0.1", int(port))
            print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
            await stop.wait()
            server.close()
            if talks:
                await asyncio.wait(talks, timeout=10)
    print(f"stopped after {scheduler.stats.steps} steps, {len(talks)} requests left open")


asyncio.run(main(*sys.argv[1:3]))
