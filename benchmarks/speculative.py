"""What drafting is worth on the CPU device, against plain decoding in the same run.

    python -m benchmarks.speculative [--prompts 24] [--max-tokens 64] [--rounds 5] [--json]

Every round continues the same prompts, greedily, with each way of decoding, in an order that
changes from round to round. Beside wall time there is the CPU time of the process: where other
programs share the machine, that is the steadier number, but it counts what overlaps twice.

What was predicted before the first run: a draft costs a sixth of a decode, and a verify of
k + 1 tokens for one row hardly more than a decode, so that one text should come 1.3 times as
fast with k = 4 and an acceptance of one half. For eight texts at once a verify is bound by
arithmetic, and costs k + 1 times as much for each row: drafting should not pay.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pydoc_data.topics import topics
from typing import Any

import torch

from aio_sched import Engine, SamplingParams, load_model, open_device
from aio_sched.engine.text_engine import TextEngine
from aio_sched.engine.weights import load_draft
from aio_sched.speculative.engine import SpeculativeEngine
from aio_sched.speculative.heads import load_heads
from aio_sched.speculative.lookup import LookupDrafter
from streams.device import Device

__all__ = ["Result", "Way", "main", "measure", "prompts_of", "ways_of"]

Make = Callable[[Device], TextEngine[Any]]


@dataclass(frozen=True)
class Way:
    """One way of decoding.

    Attributes:
        name: for the table.
        make: makes its engine.
    """

    name: str
    make: Make


@dataclass(frozen=True)
class Result:
    """What one way gave, over all rounds.

    Attributes:
        max_running: texts that are continued at once.
        acceptance_rate: of drafted tokens; 0 for plain decoding.
        tokens_per_forward: tokens of a text for each forward of the target model.
        tokens_per_s: median over the rounds.
        speed_up: median over the rounds, each against plain decoding in that round.
        speed_up_spread: least and largest of these.
        cpu_speed_up: the same by CPU time of the process.
        same_texts: how many texts are those of plain decoding.
    """

    name: str
    max_running: int
    acceptance_rate: float
    tokens_per_forward: float
    tokens_per_s: float
    speed_up: float
    speed_up_spread: tuple[float, float]
    cpu_speed_up: float
    same_texts: str


def prompts_of(number: int) -> list[bytes]:
    """Cut beginnings out of the text that the models were trained on, evenly."""
    text = b"".join(topic.encode() for topic in topics.values())
    starts = range(0, len(text) - 64, len(text) // number)[:number]
    return [text[start : start + 24 + start % 17] for start in starts]


def ways_of(max_running: int, num_drafts: Sequence[int]) -> list[Way]:
    """Return the ways to compare; plain decoding first."""
    target, draft, heads = load_model(), load_draft(), load_heads()

    def speculative(num_draft: int, draft: Any = draft, **options: Any) -> Make:
        return lambda device: SpeculativeEngine(
            target, draft, device, num_draft=num_draft, max_running=max_running, **options
        )

    def lookup(device: Device) -> SpeculativeEngine:
        return SpeculativeEngine(target, LookupDrafter(), device, max_running=max_running)

    return [
        Way("plain", lambda device: Engine(target, device, max_running=max_running)),
        *(Way(f"draft {k}", speculative(k)) for k in num_drafts),
        Way("draft 4, whole_draft", speculative(4, plan="whole_draft")),
        Way("draft 4, plan off", speculative(4, plan="off")),
        Way("draft 4, no host lengths", speculative(4, host_lengths="none")),
        *(Way(f"heads {k}", speculative(k, heads)) for k in (2, 4)),
        Way("lookup 4", lookup),
    ]


@dataclass(frozen=True)
class _Round:
    texts: list[str]
    wall_s: float
    cpu_s: float
    acceptance_rate: float
    tokens_per_forward: float


async def _play(way: Way, prompts: Sequence[bytes], params: SamplingParams) -> _Round:
    with open_device("cpu") as device:
        async with way.make(device) as engine:
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            texts = await asyncio.gather(*(engine.complete(each, params) for each in prompts))
            wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
            rates = 0.0, 1.0
            if isinstance(engine, SpeculativeEngine):
                stats = engine.speculation
                rates = stats.acceptance_rate, stats.tokens_per_forward
    return _Round(texts, wall_s, cpu_s, *rates)


def measure(
    ways: Sequence[Way], max_running: int, prompts: Sequence[bytes], max_tokens: int, rounds: int
) -> list[Result]:
    """Play all ways in turn, again and again.

    Args:
        ways: plain decoding first.
        max_running: what they were made with.
        prompts: to continue.
        max_tokens: of each.
        rounds: how often.
    """
    params = SamplingParams(max_tokens)
    played: list[list[_Round]] = [[] for _ in ways]
    for number in range(rounds):
        for place in range(len(ways)):
            at = (place + number) % len(ways)
            played[at].append(asyncio.run(_play(ways[at], prompts, params)))
    plain = played[0]
    return [_result(way, max_running, own, plain) for way, own in zip(ways, played, strict=True)]


def _result(way: Way, max_running: int, own: list[_Round], plain: list[_Round]) -> Result:
    num_tokens = sum(len(text.encode()) for text in own[0].texts)
    ratios = [p.wall_s / o.wall_s for p, o in zip(plain, own, strict=True)]
    same = sum(p == o for p, o in zip(plain[0].texts, own[0].texts, strict=True))
    return Result(
        way.name,
        max_running,
        own[0].acceptance_rate,
        own[0].tokens_per_forward,
        statistics.median(num_tokens / o.wall_s for o in own),
        statistics.median(ratios),
        (min(ratios), max(ratios)),
        statistics.median(p.cpu_s / o.cpu_s for p, o in zip(plain, own, strict=True)),
        f"{same} of {len(own[0].texts)}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one text at a time, and eight; print a table or JSON."""
    parser = argparse.ArgumentParser(description="What drafting is worth on the CPU device.")
    parser.add_argument("--prompts", type=int, default=24, help="texts to continue")
    parser.add_argument("--max-tokens", type=int, default=64, help="of each text")
    parser.add_argument("--rounds", type=int, default=5, help="of all ways")
    parser.add_argument("--running", type=int, nargs="+", default=[1, 8], help="texts at once")
    parser.add_argument("--drafts", type=int, nargs="+", default=[2, 4, 6], help="tokens to draft")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    results: list[Result] = []
    for max_running in args.running:
        # One text at a time takes longer: a part of the prompts is enough.
        prompts = prompts_of(args.prompts if max_running > 1 else max(1, args.prompts // 4))
        ways = ways_of(max_running, args.drafts)
        results += measure(ways, max_running, prompts, args.max_tokens, args.rounds)
    if args.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
        return 0
    print(
        f"{'at once':>7}  {'way':24} {'accepted':>8} {'a forward':>9} {'tokens/s':>8} "
        f"{'speed-up (spread)':>20} {'by CPU time':>11}  same texts"
    )
    for r in results:
        least, largest = r.speed_up_spread
        print(
            f"{r.max_running:7}  {r.name:24} {r.acceptance_rate:8.0%} {r.tokens_per_forward:9.2f} "
            f"{r.tokens_per_s:8.0f} {r.speed_up:6.2f} ({least:.2f} - {largest:.2f}) "
            f"{r.cpu_speed_up:11.2f}  {r.same_texts}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
