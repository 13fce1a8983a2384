"""A small model, or heads on the large one, draft tokens that the large one verifies.

python examples/speculative.py [auto | cpu | cuda] [timeline.svg]

Under each policy of planning the texts are the same as without drafts; what differs is how many
forwards of the large model they take. In the timeline, verifies are planned beside the draft, on a
device stream of their own, and the lengths go to the host while the drafter catches up.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

from aio_sched import (
    Device,
    Engine,
    SamplingParams,
    SpeculativeEngine,
    TraceRecorder,
    load_draft,
    load_heads,
    load_model,
    open_device,
)
from aio_sched.bench.report import print_table, table

PROMPTS = ["The if statement is used", "The for statement is used"]
PARAMS = SamplingParams(max_tokens=96)

Make = Callable[[Device, tuple[TraceRecorder, ...]], Any]


def ways(device: Device) -> dict[str, Make]:
    """Return how to make an engine that drafts nothing, one of each policy, and one with heads."""
    model = load_model(device=device.torch_device)
    draft = load_draft(device=device.torch_device)
    heads = load_heads(device=device.torch_device)

    def drafting(plan: str, draft: Any = draft) -> Make:
        return lambda device, monitors: SpeculativeEngine(
            model, draft, device, num_draft=4, plan=plan, max_running=2, monitors=monitors
        )

    plans = ("targeted", "whole_draft", "off")
    return {
        "no draft": lambda device, monitors: Engine(
            model, device, max_running=2, monitors=monitors
        ),
        **{plan: drafting(plan) for plan in plans},
        "targeted, heads": drafting("targeted", heads),
    }


async def play(make: Make, device: Device, trace: TraceRecorder) -> tuple[list[str], list[Any]]:
    """Continue the prompts; return the texts, and the cells of a row of the table."""
    async with make(device, (trace,)) as engine:
        began = time.perf_counter()
        texts = await asyncio.gather(*(engine.complete(prompt, PARAMS) for prompt in PROMPTS))
        took_s = time.perf_counter() - began
    if not isinstance(engine, SpeculativeEngine):
        return texts, ["-", "1.00", f"{took_s * 1e3:.0f} ms"]
    stats = engine.speculation
    rates = f"{stats.acceptance_rate:.0%}", f"{stats.tokens_per_forward:.2f}"
    return texts, [*rates, f"{took_s * 1e3:.0f} ms"]


async def main(device_name: str = "auto", picture: str = "speculative.svg") -> None:
    """Continue the prompts in each way, print what came of it, and draw the targeted one."""
    rows, written = [], []
    with open_device(device_name) as device:
        for name, make in ways(device).items():
            trace = TraceRecorder()
            texts, cells = await play(make, device, trace)
            written.append(texts)
            rows.append([name, *cells])
            if name == "targeted":
                trace.picture(picture, last=4, title="planned beside the draft")
        print_table(table("four tokens drafted", ["plan", "accepted", "a forward", "time"], rows))
        for prompt, text in zip(PROMPTS, written[0], strict=True):
            print(f"> {prompt}{text!r}")
        same = all(texts == written[0] for texts in written)
        print(f"same texts: {same}; on {device.name}; timeline in {picture}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
