"""JSON that a schema accepts, and dates, written by a byte model beside free text in one batch.

python examples/constrained.py [auto | cpu | cuda] [timeline.svg]

Needs llguidance: pip install 'aio-sched[constrained]'. What a token may be depends on the token
before, which the host has to see. So a step begins with the sampling of those tokens, and while its
model reads them, the host gets them, follows the constraints and computes the next masks.
"""

import asyncio
import sys

from aio_sched import (
    Engine,
    FinishReason,
    JsonSchema,
    Regex,
    Request,
    SamplingParams,
    TraceRecorder,
    load_model,
    open_device,
)
from aio_sched.bench.report import print_table, table

NAME = {"type": "string", "pattern": "^[a-z_]{3,9}$"}
FUNCTION = JsonSchema(
    {
        "type": "object",
        "properties": {
            "name": NAME,
            "kind": {"enum": ["function", "method", "coroutine"]},
            "arguments": {"type": "array", "items": NAME, "minItems": 1, "maxItems": 2},
            "line": {"type": "integer", "minimum": 1, "maximum": 9999},
        },
        "required": ["name", "kind", "arguments", "line"],
        "additionalProperties": False,
    }
)
DATE = Regex(r"(19|20)\d\d-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])")

ASKED = [
    ("The built-in function ", SamplingParams(96, temperature=0.6, seed=1, constraint=FUNCTION)),
    ("A generator function is", SamplingParams(64)),
    ("A coroutine is defined as ", SamplingParams(96, constraint=FUNCTION)),
    ("New in version ", SamplingParams(16, temperature=1, seed=2, constraint=DATE)),
    ("The with statement is used to", SamplingParams(64, temperature=0.5, seed=3)),
    ("A method of a class ", SamplingParams(20, temperature=0.6, seed=4, constraint=FUNCTION)),
]


async def continue_text(engine: Engine, prompt: str, params: SamplingParams) -> Request:
    """Write on until the text ends, or has as many bytes as it may have."""
    request = engine.submit(prompt, params)
    async for _ in engine.stream(request):
        pass
    return request


def show(requests: list[Request]) -> None:
    """Print the texts; what ended by itself meets its constraint, what was cut off does not yet."""
    rows = []
    for request in requests:
        assert request.finish is not None
        text = bytes(request.output).decode(errors="replace").replace("\n", " ")
        constraint = request.params.constraint
        kind = type(constraint).__name__ if constraint is not None else "free"
        is_whole = request.finish is FinishReason.END_OF_TEXT
        rows.append([kind, text, len(request.output), "whole" if is_whole else "cut off"])
    print_table(table("texts of one batch", ["constraint", "text", "bytes", "end"], rows))


async def main(device_name: str = "auto", picture: str = "constrained.svg") -> None:
    """Continue all prompts in one batch, some of them under a constraint."""
    trace = TraceRecorder()
    with open_device(device_name) as device:
        model = load_model(device=device.torch_device)
        async with Engine(model, device, monitors=(trace,)) as engine:
            texts = (continue_text(engine, prompt, params) for prompt, params in ASKED)
            show(await asyncio.gather(*texts))
        trace.picture(picture, last=6, title="tokens sampled before the model, pulled meanwhile")
        print(f"{engine.scheduler.stats.steps} steps on {device.name}; timeline in {picture}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
