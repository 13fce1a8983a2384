"""The command line: ``aio-sched demo | bench | explore | doctor``."""

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from streams.errors import AioSchedError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0 well, 1 a finding, 2 a mistake in the call."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (AioSchedError, ValueError, OSError) as error:
        print(f"aio-sched: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aio-sched", description="Overlap scheduling for accelerators, driven by asyncio."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands.add_parser("demo", help="continue prompts, overlapped and sequentially"))
    bench = commands.add_parser("bench", help="measure on this machine")
    kinds = bench.add_subparsers(required=True, metavar="WHAT")
    _add_bench_bridge(kinds.add_parser("bridge", help="wake latency and CPU of each wait policy"))
    _add_bench_loop(kinds.add_parser("loop", help="how much of the host work overlap hides"))
    explored = commands.add_parser(
        "explore", help="run a scenario under many schedules", allow_abbrev=False
    )
    _add_explore(explored)
    doctor = commands.add_parser("doctor", help="what this machine has, for a bug report")
    doctor.set_defaults(run=_doctor)
    return parser


def _run_on(loop: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine on the named event loop."""
    if loop == "uvloop":
        import uvloop

        return uvloop.run(make())
    return asyncio.run(make())


_default_loop = "asyncio" if sys.platform == "win32" else "uvloop"


# demo -------------------------------------------------------------------------


def _add_demo(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", action="append", default=[], help="a prompt; may be repeated")
    source.add_argument("--file", type=Path, help="a file with one prompt per line")
    parser.add_argument("--requests", type=int, default=24, help="requests in all (24)")
    parser.add_argument("--max-tokens", type=int, default=120, help="of the longest text (120)")
    parser.add_argument(
        "--temperature", type=float, default=0.7, help="of every second request (0.7)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    parser.add_argument("--max-running", type=int, default=8, help="rows of a batch (8)")
    parser.add_argument("--trace", type=Path, default=Path("aio-sched-demo.json"))
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default=_default_loop)
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    from aio_sched.demo import DemoOptions, run_demo
    from aio_sched.engine.requests import SamplingParams

    if options.requests < 1:
        raise ValueError(f"--requests {options.requests} is below 1")
    if options.trace.suffix == ".svg":
        raise ValueError(f"--trace {options.trace} is for JSON; the picture goes beside it as .svg")
    options.trace.touch()  # a path that cannot be written is found now, not after the work
    SamplingParams(options.max_tokens, options.temperature)
    demo = DemoOptions(
        _prompts(options),
        options.requests,
        options.max_tokens,
        options.temperature,
        options.device,
        options.max_running,
        options.trace,
    )
    is_same = _run_on(options.loop, lambda: run_demo(demo, Console()))
    return 0 if is_same else 1


def _prompts(options: argparse.Namespace) -> list[str]:
    if options.file is None:
        return list(options.prompt)
    try:
        lines = options.file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{options.file} is no UTF-8 text: {error}") from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"{options.file} has no prompt; write one per line")
    return prompts


# bench ------------------------------------------------------------------------


def _add_bench_bridge(parser: argparse.ArgumentParser) -> None:
    _add_bench(parser, seconds=1.8)
    parser.add_argument("--policy", action="append", help="a row; may be repeated (all)")
    parser.add_argument(
        "--load", action="append", help="waiters/streams/interval in ms, as 8/4/5 (four loads)"
    )
    parser.add_argument("--jitter", type=float, default=0.02, help="of the intervals (0.02)")
    parser.set_defaults(run=_bench_bridge)


def _add_bench_loop(parser: argparse.ArgumentParser) -> None:
    _add_bench(parser, seconds=1.5)
    parser.add_argument("--schedule", action="append", help="a row; may be repeated (all)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, ... (cpu)")
    parser.add_argument("--device-ms", type=float, action="append", help="length of a step's work")
    parser.add_argument("--host-share", type=float, action="append", help="host work, 0 to 1")
    parser.add_argument("--depth", type=int, help="steps in flight (2, more for short steps)")
    parser.add_argument("--host-work", choices=("native", "python"), default="native")
    parser.set_defaults(run=_bench_loop)


def _add_bench(parser: argparse.ArgumentParser, *, seconds: float) -> None:
    parser.add_argument("--loop", action="append", choices=("asyncio", "uvloop"), help="both")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"per row ({seconds})")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each row (3)")
    parser.add_argument("--json", action="store_true", help="print rows as JSON instead")


def _bench_bridge(options: argparse.Namespace) -> int:
    from aio_sched.bench.bridge import Config, run_bridge

    chosen = {
        "policies": options.policy,
        "loops": options.loop,
        "configs": [Config.parse(load) for load in options.load or ()],
        "seconds": options.seconds,
        "rounds": options.rounds,
        "jitter": options.jitter,
    }
    return _bench(run_bridge, chosen, as_json=options.json)


def _bench_loop(options: argparse.Namespace) -> int:
    from aio_sched.bench.loop import run_loop_bench

    chosen = {
        "device": options.device,
        "schedules": options.schedule,
        "loops": options.loop,
        "device_ms": options.device_ms,
        "host_shares": options.host_share,
        "seconds": options.seconds,
        "rounds": options.rounds,
        "depth": options.depth,
        "host_work": options.host_work,
    }
    return _bench(run_loop_bench, chosen, as_json=options.json)


def _bench(run: Callable[..., list[Any]], chosen: dict[str, Any], *, as_json: bool) -> int:
    """Run a benchmark with what was chosen and its own defaults for the rest."""
    given = {name: value for name, value in chosen.items() if value not in (None, [])}
    rows = run(json=as_json, **given)
    if as_json:
        print(json.dumps(rows, indent=1))
    return 0


# explore ----------------------------------------------------------------------


def _add_explore(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenario", help="module:function, a coroutine function of a Trial")
    parser.add_argument("--seeds", type=int, default=200, help="how many (200)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--seed", type=int, help="one seed only, as a report names it")
    parser.add_argument("--strategy", default="random", help=_STRATEGIES)
    parser.add_argument(
        "--profile", action="append", help="of the simulated device; may be repeated (all)"
    )
    parser.add_argument(
        "--strict",
        action=argparse.BooleanOptionalAction,
        help="let the hazard checker keep a clock for each task (in every second run)",
    )
    parser.add_argument(
        "--max-steps", type=int, default=200_000, help="turns of the loop until a livelock"
    )
    parser.add_argument("--shrinks", type=int, default=60, help="runs to simplify a finding (60)")
    parser.add_argument("--timeline", type=Path, help="write the failing schedule here, as SVG")
    again = parser.add_argument_group("one run again, as a finding prints it")
    again.add_argument("--replay", metavar="SEED:PROFILE:ORDER")
    again.add_argument("--delay", type=int, help="the task step that is put off")
    again.add_argument("--steps", type=int, help="task steps, for pct")
    again.add_argument("--cancel", metavar="KIND:POINT", help="native:3, for one")
    again.add_argument("--fault", action="append", default=[], metavar="KIND:STAGE:LABEL:...")
    again.add_argument("--choices", metavar="TURN=PLACES;...", help="the order of the tasks")
    parser.set_defaults(run=_explore)


def _explore(options: argparse.Namespace) -> int:
    from aio_sched.testing.command import run_explore

    return run_explore(options)


_STRATEGIES = "random (as it is), pct, single_cancel, delay_one"


# doctor -----------------------------------------------------------------------


def _doctor(options: argparse.Namespace) -> int:
    import torch

    from streams.accelerator import accelerator_type

    kind = accelerator_type()
    facts = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "accelerator": kind or "none",
        "devices": torch.accelerator.device_count() if kind else 0,
        "hip": torch.version.hip,
        "cuda": torch.version.cuda,
        "settings": {k: v for k, v in os.environ.items() if k.startswith("AIO_SCHED_")},
    }
    print(json.dumps(facts, indent=2))
    return 0
