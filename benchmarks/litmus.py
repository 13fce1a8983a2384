"""Which assumptions of the simulated device hold on a device: ``python -m benchmarks.litmus``.

Each case is one claim, put to a fresh device, that the simulated device makes and that the
library or its proofs rely on. It runs on the CPU and on the simulated device as well, where what
only a driver can answer is said to be open.
"""

import argparse
import dataclasses
import json
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aio_sched.bench.report import print_table, table
from benchmarks import litmus_memory, litmus_native, litmus_order
from benchmarks.gpu import environment
from benchmarks.litmus_lab import Case, Finding, Lab, NotDoneError, Verdict
from streams.accelerator import accelerator_type
from streams.device import open_device
from streams.errors import DeviceUnavailableError, LaunchNotCompleteError
from streams.simulated import PROFILES
from tests.device_fixtures import DEVICES, Bench, SimBench

__all__ = ["BENCHES", "CASES", "ask", "main", "run_cases"]

Row = dict[str, Any]

CASES: tuple[Case, ...] = (
    *litmus_order.CASES,
    *litmus_memory.CASES,
    *litmus_native.CASES,
)

#: Asking is what makes virtual time pass here; dear questions make it pass sooner.
_SIMULATED = dataclasses.replace(PROFILES["random"], query_us=50.0)
BENCHES: dict[str, Callable[[], Bench]] = {
    "cuda": DEVICES["cuda-inline"],
    "cpu": DEVICES["cpu"],
    "sim": partial(SimBench, _SIMULATED),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Put all cases to a device; see ``--help``.

    Returns:
        0 if no claim was found wrong, 1 if one was or a case broke off, 2 if there is no
        such device.
    """
    options = _parser().parse_args(arguments)
    kind = _kind(options.device)
    try:
        open_device(kind).close()
        BENCHES[kind]().release_all()
    except (DeviceUnavailableError, pytest.skip.Exception) as why:  # the latter on ROCm
        print(f"{why}\nnothing was asked; --device cpu and --device sim run here", file=sys.stderr)
        return 2
    rows = list(run_cases(BENCHES[kind], CASES))
    report = {"environment": environment(kind), "counts": _counts(rows), "cases": rows}
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        _print(report)
    return int(any(row["verdict"] in _BAD for row in rows))


def run_cases(
    make_bench: Callable[[], Bench], cases: Iterable[Case], *, patience_s: float = 5.0
) -> Iterator[Row]:
    """Give one row for each case: name, claim, verdict, what was seen, seconds.

    Args:
        make_bench: called for each case anew.
        cases: what to ask.
        patience_s: after so many seconds what is not done will never be.
    """
    for case in cases:
        start_s = time.perf_counter()
        finding = ask(case, make_bench(), patience_s=patience_s)
        yield {
            "name": case.name,
            "claim": case.claim,
            "verdict": finding.verdict.value,
            "seen": finding.seen,
            "seconds": round(time.perf_counter() - start_s, 3),
        }


def ask(case: Case, bench: Bench, *, patience_s: float = 5.0) -> Finding:
    """Put one case to a fresh device of ``bench``; release and close it afterwards.

    Args:
        case: what to ask.
        bench: where to get the device; of no more use afterwards.
        patience_s: after so many seconds what is not done will never be.
    """
    with bench.open() as device:
        try:
            return case.ask(Lab(bench, device, patience_s))
        except (NotDoneError, LaunchNotCompleteError) as error:  # too late, and too early
            return Finding(Verdict.FAILS, str(error))
        except Exception as error:  # the other cases shall be asked nevertheless
            traceback.print_exc()
            return Finding(Verdict.BROKE, repr(error))
        finally:
            bench.release_all()


_BAD = (Verdict.FAILS.value, Verdict.BROKE.value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.litmus", description=__doc__)
    parser.add_argument(
        "--device", default="auto", choices=["auto", *BENCHES], help="auto: cuda if it is there"
    )
    parser.add_argument("--out", type=Path, help="write a JSON file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _kind(asked: str) -> str:
    if asked != "auto":
        return asked
    return "cuda" if accelerator_type() == "cuda" else "cpu"


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    counts = Counter(row["verdict"] for row in rows)
    return {verdict.value: counts[verdict.value] for verdict in Verdict}


def _print(report: Row) -> None:
    where = report["environment"]
    title = f"{where['device_name']}, torch {where['torch']}, CUDA {where['cuda']}, {where['date']}"
    columns = ("name", "claim", "verdict", "seen")
    print_table(table(title, columns, ([row[c] for c in columns] for row in report["cases"])))
    print(", ".join(f"{count} {verdict}" for verdict, count in report["counts"].items()))


if __name__ == "__main__":
    sys.exit(main())
