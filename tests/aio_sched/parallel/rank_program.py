"""A rank in a process of its own, which does as it is told over its standard input.

One word a line: ``conformance`` runs all rules, ``exchange`` makes an exchange, ``rebuild``
begins anew, ``steps N SEED`` makes N exchanges, ``close`` ends. It says ``"begun"``, and then its
answer, a line of JSON each.
"""

import asyncio
import json
import random
import sys
import time
from typing import Any

from aio_sched.parallel import RankGroup, open_rank_group
from tests.aio_sched.parallel.conformance import CONFORMANCE, outcome


async def _conformance(group: RankGroup) -> Any:
    return {rule.name: await rule.program(group) for rule in CONFORMANCE}


async def _exchange(group: RankGroup) -> Any:
    began_s = time.monotonic()
    result = await outcome(group.gather_info("exchange", [group.rank]))
    return [result, time.monotonic() - began_s]


async def _rebuild(group: RankGroup) -> Any:
    await group.rebuild(timeout=2.0)
    return [group.rank, group.size, group.epoch]


async def _steps(group: RankGroup, num_steps: int, seed: int) -> Any:
    """Make exchanges of random values; return what the ranks have in common of all."""
    dice, seen = random.Random(8 * seed + group.rank), 0
    for step in range(num_steps):
        values = [dice.getrandbits(40) for _ in range(5)]
        rows = await group.gather_info("step", [step, *values])
        assert rows[group.rank] == (step, *values)
        assert all(row[0] == step for row in rows)
        seen = hash((seen, rows))
    return seen


async def _obey(group: RankGroup, command: str, *arguments: str) -> Any:
    if command == "steps":
        return await _steps(group, *map(int, arguments))
    return await {"conformance": _conformance, "exchange": _exchange, "rebuild": _rebuild}[command](
        group
    )


def _say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def _main(rank: int, size: int, address: str, timeout_s: float) -> None:
    group = await open_rank_group(rank=rank, size=size, address=address, timeout_s=timeout_s)
    _say("joined")
    while (line := await asyncio.to_thread(sys.stdin.readline)).strip() not in ("", "close"):
        _say("begun")
        _say(await _obey(group, *line.split()))
    await group.aclose()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])))
