"""Which experts of a mixture the tokens of several texts were given, layer by layer.

python examples/mixture_of_experts.py [auto | cpu | cuda] [timeline.svg]

Routers choose three of eight experts for each token, on the device. A clone of what they chose
goes to the host with the sampled tokens, while the next step runs, and comes back with the text.
"""

import asyncio
import sys

from aio_sched import Engine, Request, SamplingParams, TraceRecorder, load_mixture, open_device
from aio_sched.bench.report import print_table, table

PROMPTS = [
    "The with statement is used to",
    "A generator function is",
    "If the class has a",
    "Lambda expressions",
    "The following example",
]


async def continue_text(engine: Engine, prompt: str) -> Request:
    """Write on; the experts are there when the text has ended."""
    request = engine.submit(prompt, SamplingParams(max_tokens=64))
    async for _ in engine.stream(request):
        pass
    return request


def show_texts(requests: list[Request]) -> None:
    """Print what was written, and for how many tokens there is a row of experts."""
    rows = []
    for request in requests:
        assert request.routed_experts is not None
        text = bytes(request.output).decode(errors="replace").replace("\n", " ")
        tokens = len(request.prompt), len(request.output)
        rows.append([request.prompt.decode(), text[:40], *tokens, len(request.routed_experts)])
    columns = ["prompt", "goes on", "prompt tokens", "tokens", "captured rows"]
    print_table(table("texts", columns, rows))


def show_use(requests: list[Request], num_experts: int) -> None:
    """Print the share of tokens that each expert was chosen for."""
    use: dict[int, list[int]] = {}
    num_tokens = 0
    for request in requests:
        assert request.routed_experts is not None
        num_tokens += len(request.routed_experts)
        for layer, chosen in enumerate(request.routed_experts.unbind(1)):
            counts = use.setdefault(layer, [0] * num_experts)
            for expert in chosen.flatten().tolist():
                counts[expert] += 1
    rows = [
        [
            f"layer {layer}",
            *(f"{'#' * round(8 * n / num_tokens):<8} {n / num_tokens:4.0%}" for n in counts),
        ]
        for layer, counts in use.items()
    ]
    columns = ["", *(f"expert {expert}" for expert in range(num_experts))]
    print_table(table(f"share of {num_tokens} tokens", columns, rows))


async def main(device_name: str = "auto", picture: str = "mixture_of_experts.svg") -> None:
    """Continue all prompts in one batch, with what the routers chose."""
    trace = TraceRecorder()
    with open_device(device_name) as device:
        model = load_mixture(device.torch_device)
        async with Engine(
            model, device, chunk=32, capture_experts=True, monitors=(trace,)
        ) as engine:
            requests = await asyncio.gather(*(continue_text(engine, prompt) for prompt in PROMPTS))
        show_texts(requests)
        show_use(requests, model.mixture.num_experts)
        trace.picture(picture, last=6, title="the clone of what was chosen, and its copy")
        print(f"{engine.scheduler.stats.steps} steps on {device.name}; timeline in {picture}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
