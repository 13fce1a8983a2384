"""All measurements that need an accelerator, in one go: ``python -m benchmarks.gpu``.

Takes some minutes and writes one JSON file. Each section runs by itself: one that
fails is reported, and the others are kept. With ``--device cpu`` the same code runs
where there is no accelerator, to try it out.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from aio_sched.bench.bridge import LOOPS
from aio_sched.bench.loop import run_loop_bench
from aio_sched.bench.neighbours import Neighbours
from aio_sched.bench.report import table
from benchmarks.driver_calls import gil_rows, launch_rows, query_rows
from benchmarks.wake_latency import LOADS, WAYS, WakeLoad, wake_rows
from streams.device import open_device
from streams.errors import DeviceUnavailableError, UnknownDeviceError

__all__ = ["main", "sections"]

Row = dict[str, Any]
Section = Callable[[], Sequence[Any]]

_WIDTH = 180  # of the tables, also where the output is a file
_RESULTS = Path(__file__).parent / "results"


def sections(device: str, *, smoke: bool = False) -> dict[str, Section]:
    """Return what to measure on ``device``, by name, in the order in which it runs.

    Args:
        device: as ``open_device`` takes it.
        smoke: measure hardly anything, in seconds; for trying the suite out.
    """
    loop: dict[str, Any] = {"device": device, "json": True}
    if smoke:
        small = {**loop, "device_ms": [0, 1], "host_shares": [0.5], "seconds": 0.02, "rounds": 1}
        return {
            "query": partial(query_rows, device, batches=1),
            "gil": partial(gil_rows, device, repeats=20),
            "launch": partial(launch_rows, device, batches=1),
            "loop": partial(run_loop_bench, **small),
            "loop with copies": partial(run_loop_bench, **small, copies=True),
            "wake": partial(
                wake_rows, device, LOOPS, loads=[WakeLoad(4, 2, 1.0)], ways=WAYS, seconds=0.05
            ),
        }
    full = {**loop, "host_shares": [0, 0.5, 0.9], "seconds": 0.6}
    return {
        "query": partial(query_rows, device),
        "gil": partial(gil_rows, device),
        "launch": partial(launch_rows, device),
        "loop": partial(run_loop_bench, **full),
        "loop with copies": partial(run_loop_bench, **full, copies=True),
        "wake": partial(wake_rows, device, LOOPS, loads=LOADS),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; see ``--help``.

    Returns:
        0 if all went well, 1 if a section failed, 2 if there is no such device.
    """
    options = _parser().parse_args(arguments)
    try:
        name = _device_name(options.device)
    except (DeviceUnavailableError, UnknownDeviceError) as error:
        print(error, file=sys.stderr)
        return 2
    out = options.out or _default_path(name)
    neighbours = Neighbours()
    report: Row = {"environment": environment(name), "sections": {}}
    for title, section in sections(name, smoke=options.smoke).items():
        if options.section and title not in options.section:
            continue
        print(f"{title} ...", file=sys.stderr, flush=True)
        report["sections"][title] = _run(section)
        report["others_share_of_cores"] = neighbours.share()
        _write(out, report)  # at once: whatever happens next loses nothing
        _print(title, report["sections"][title])
    print(f"written to {out}")
    return int(any("error" in result for result in report["sections"].values()))


def environment(device: str) -> Row:
    """Say what the figures were measured on, and when."""
    with open_device(device) as opened:
        is_gpu = opened.torch_device.type == "cuda"
        name = torch.cuda.get_device_name(opened.torch_device) if is_gpu else opened.name
        return {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "device": opened.name,
            "device_name": name,
            "platform": opened.platform.value,
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "driver": _driver() if is_gpu else None,
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in ("torch", "uvloop")},
        }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="accelerator", help="cuda, cuda:1, cpu (the first)")
    parser.add_argument("--out", type=Path, help="JSON file (benchmarks/results/DEVICE-DATE.json)")
    parser.add_argument("--section", action="append", choices=list(sections("cpu")), help="only")
    parser.add_argument("--smoke", action="store_true", help="seconds: does it run at all?")
    return parser


def _device_name(asked: str) -> str:
    """Return the name of the device to measure.

    Raises:
        DeviceUnavailableError: there is none.
        UnknownDeviceError: no such kind of device.
    """
    with open_device("auto" if asked == "accelerator" else asked) as device:
        if asked == "accelerator" and device.name == "cpu":
            raise DeviceUnavailableError(
                f"torch {torch.__version__} finds no accelerator here; this suite measures one. "
                "Run it where there is one, or with --device cpu to try it out"
            )
        return device.name


def _default_path(device: str) -> Path:
    day = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    return _RESULTS / f"{re.sub(r'[^A-Za-z0-9]+', '-', device)}-{day}.json"


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):  # a ROCm machine, or a container without it
        return None
    return done.stdout.strip() or None


def _run(section: Section) -> Row:
    start_s = time.perf_counter()
    result: Row = {}
    try:
        result["rows"] = list(section())
    except Exception as error:  # the other sections must not suffer; it is in the report
        result["error"] = repr(error)
        result["traceback"] = traceback.format_exc()
    result["seconds"] = round(time.perf_counter() - start_s, 1)
    return result


def _write(out: Path, report: Row) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")


def _print(title: str, result: Row) -> None:
    if "error" in result:
        print(f"{title} failed:\n{result['traceback']}", file=sys.stderr)
        return
    rows = [_flat(row) for row in result["rows"]]
    Console(width=_WIDTH).print(table(title, list(rows[0]), (list(row.values()) for row in rows)))


def _flat(row: Row) -> Row:
    """Give each percentile a column of its own."""
    flat: Row = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat.update({f"{name} {part}": figure for part, figure in value.items()})
        else:
            flat[name] = value
    return flat


if __name__ == "__main__":
    sys.exit(main())
