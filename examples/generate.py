"""Prompts continued at the same time by the built-in model, printed line by line as they come.

python examples/generate.py [auto | cpu | cuda] [prompt ...]
"""

import asyncio
import sys

from aio_sched import Engine, SamplingParams, load_model, open_device

PROMPTS = ["The with statement is used to", "A generator function is"]


async def continue_text(engine: Engine, number: int, prompt: str) -> None:
    """Print a prompt's continuation; other tasks print theirs meanwhile."""
    line = bytearray(prompt.encode())
    async for token in engine.generate(prompt, SamplingParams(max_tokens=160)):
        line.append(token)
        if line.endswith(b"\n"):
            print(f"{number}> {line.decode(errors='replace')}", end="", flush=True)
            line.clear()
    print(f"{number}> {line.decode(errors='replace')}")


async def main(device_name: str = "auto", *prompts: str) -> None:
    """Continue all prompts in one batch, which a request joins and leaves between two steps."""
    with open_device(device_name) as device:
        model = load_model(device=device.torch_device)
        async with Engine(model, device) as engine, asyncio.TaskGroup() as tasks:
            for number, prompt in enumerate(prompts or PROMPTS, start=1):
                tasks.create_task(continue_text(engine, number, prompt))
        print(f"{engine.scheduler.stats.steps} steps on {device.name}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
