"""torch's CUDA sanitizer beside the hazard checker: ``python -m benchmarks.sanitizer``.

Runs small programs with a race and without it, a pipeline without its barrier, and the engine,
each under this library's ``HazardChecker`` and under torch's sanitizer, once as it is and once
told of true queries. With ``--device sim`` or ``--device cpu`` torch's analysis is fed by hand
from what launches declare; what torch traces on a GPU is not shown then.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aio_sched.bench.report import print_table, table
from benchmarks.gpu import environment
from benchmarks.hazard_programs import PROGRAMS, Program
from benchmarks.sanitizer_trace import Tracing, by_hand, on_cuda
from streams.device import open_device
from streams.errors import DeviceUnavailableError
from streams.hazards import HazardChecker

__all__ = ["compare", "main"]

Row = dict[str, Any]

_TRACINGS: dict[str, Tracing] = {"cuda": on_cuda, "cpu": by_hand, "sim": by_hand}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the two; see ``--help``.

    Returns:
        0 if both are right about every program, but for what torch's cannot see; 1 if not;
        2 if there is no such device.
    """
    options = _parser().parse_args(arguments)
    try:
        open_device(options.device).close()
    except DeviceUnavailableError as error:
        print(
            f"{error}\ntorch's sanitizer traces CUDA only; --device sim feeds it by hand",
            file=sys.stderr,
        )
        return 2
    rows = list(compare(options.device, PROGRAMS))
    if options.out is not None:
        report = {"environment": environment(options.device), "programs": rows}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    _print(options.device, rows)
    return int(not all(row["as_expected"] for row in rows))


def compare(device: str, programs: Iterable[Program]) -> Iterator[Row]:
    """Give a row for each program, without its cure and with it.

    Args:
        device: ``"cuda"``, ``"cpu"`` or ``"sim"``.
        programs: what to run.
    """
    for program in programs:
        for is_fenced in (False, True) if program.has_race else (True,):
            yield _row(device, program, is_fenced)


def _row(device: str, program: Program, is_fenced: bool) -> Row:
    checker, untaught, _ = _run(device, program, is_fenced, is_taught=False)
    again, taught, findings = _run(device, program, is_fenced, is_taught=True)
    is_racy = not is_fenced
    is_right = bool(checker) == bool(again) == is_racy
    return {
        "program": program.name,
        "has_race": is_racy,
        "checker": len(checker),
        "torch": untaught,
        "torch_taught": taught,
        "as_expected": is_right and bool(taught) == (is_racy and not program.blind),
        "note": program.blind if is_racy else "",
        "reports": [*again, *findings],
    }


def _run(
    device: str, program: Program, is_fenced: bool, *, is_taught: bool
) -> tuple[list[str], int, list[str]]:
    """Return what the checker and torch's sanitizer say of one run."""
    checker = HazardChecker()
    with open_device(device) as opened, checker.watch(opened):
        with _TRACINGS[device](opened, is_taught) as found:
            asyncio.run(_main(program, opened, is_fenced))
        return [str(report) for report in checker.reports], len(found), [str(e) for e in found[:3]]


async def _main(program: Program, device: Any, is_fenced: bool) -> None:
    await program.run(device, is_fenced)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sanitizer", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=list(_TRACINGS))
    parser.add_argument("--out", type=Path, help="write a JSON file, with all reports")
    return parser


def _print(device: str, rows: Sequence[Row]) -> None:
    columns = ("program", "has_race", "checker", "torch", "torch_taught", "as_expected", "note")
    how = "traced" if device == "cuda" else "fed by hand, not traced"
    cells = [[str(row[column]) for column in columns] for row in rows]
    print_table(table(f"reports on {device}; torch's sanitizer is {how}", columns, cells))


if __name__ == "__main__":
    sys.exit(main())
