"""``aio-sched explore``: a scenario over many schedules, from the command line."""

import argparse
import importlib
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from aio_sched.testing.explore import Exploration, Finding, explore, judge_of
from aio_sched.testing.outcome import Outcome
from aio_sched.testing.schedule import (
    CancelKind,
    Schedule,
    parse_choices,
    parse_fault,
    parse_point,
)
from aio_sched.testing.trial import Scenario, run_once

__all__ = ["load_scenario", "quiet", "run_explore"]


def run_explore(options: argparse.Namespace) -> int:
    """Explore, or run once again; return 1 if something was found."""
    if options.seeds < 1 or options.shrinks < 0:
        raise ValueError(f"--seeds {options.seeds} --shrinks {options.shrinks}: too few")
    scenario = load_scenario(options.scenario)
    console = Console()
    if options.replay is not None:
        with quiet():
            finding = _replay(scenario, _schedule(options))
        return _tell(console, finding, 1, options.timeline)
    with quiet():
        explored = _explore(console, scenario, options)
    status = _tell(console, explored.finding, explored.num_runs, options.timeline)
    console.print(_summary(explored))
    return status


@contextmanager
def quiet() -> Iterator[None]:
    """Log nothing: schedulers that are cut short would say so a thousand times."""
    log = logging.getLogger("aio_sched")
    former = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(former)


def load_scenario(name: str) -> Scenario:
    """Return the scenario called ``module:function``; the working directory comes first.

    Raises:
        ValueError: there is none of this name.
    """
    module_name, _, function = name.partition(":")
    if not module_name or not function:
        raise ValueError(f"scenario {name!r} is not module:function, as examples.race:table is")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"scenario {name!r}: {error}; run it where the module is") from error
    scenario: Any = module
    for part in function.split("."):
        scenario = getattr(scenario, part, None)
    if not callable(scenario):
        raise ValueError(f"scenario {name!r}: {module.__name__} has no function {function!r}")
    return scenario  # type: ignore[no-any-return]  # whether it takes a Trial shows when it runs


def _explore(console: Console, scenario: Scenario, options: argparse.Namespace) -> Exploration:
    _refuse_parts_of_a_replay(options)
    first, num_seeds = options.first_seed, options.seeds
    if options.seed is not None:
        first, num_seeds = options.seed, 1
    seeds = range(first, first + num_seeds)
    exhaustive = options.strategy in ("single_cancel", "delay_one")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        bar = progress.add_task(options.strategy, total=None if exhaustive else len(seeds))

        def on_run(outcome: Outcome) -> None:
            progress.advance(bar)

        return explore(
            scenario,
            seeds=seeds,
            strategy=options.strategy,
            profiles=tuple(options.profile or ()),
            strict=options.strict,
            max_steps=options.max_steps,
            shrinks=options.shrinks,
            on_run=on_run,
        )


def _replay(scenario: Scenario, schedule: Schedule) -> Finding | None:
    judge = judge_of(scenario)
    outcome = run_once(scenario, schedule)
    what = judge.complaints(outcome)
    if not what and outcome.unfired:
        raise ValueError(f"--fault: {outcome.unfired[0]} struck nothing in this run")
    if not what and schedule.cancel_at is not None and not outcome.is_cut:
        raise ValueError(f"--cancel: the run ended before point {schedule.cancel_at}")
    return judge.finding(outcome, what) if what else None


def _refuse_parts_of_a_replay(options: argparse.Namespace) -> None:
    parts = {name: getattr(options, name) for name in ("delay", "steps", "cancel", "choices")}
    given = [name for name, value in parts.items() if value is not None]
    if given or options.fault:
        name = given[0] if given else "fault"
        raise ValueError(f"--{name} describes one run; give it with --replay SEED:PROFILE:ORDER")


def _schedule(options: argparse.Namespace) -> Schedule:
    parts = options.replay.split(":")
    if len(parts) != 3 or not re.fullmatch(r"-?\d+", parts[0]):
        raise ValueError(f"--replay {options.replay!r} is not SEED:PROFILE:ORDER, as 7:random:fifo")
    schedule = Schedule(
        int(parts[0]),
        parts[1],
        parts[2],
        is_strict=bool(options.strict),
        faults=tuple(map(parse_fault, options.fault)),
        delay=options.delay or 0,
        num_steps=options.steps or 1000,
    )
    if options.choices is not None:
        schedule = replace(schedule, choices=parse_choices(options.choices))
    return schedule if options.cancel is None else _cancelled(schedule, options.cancel)


def _cancelled(schedule: Schedule, cancel: str) -> Schedule:
    kind, _, point = cancel.partition(":")
    kinds = [known.value for known in CancelKind]
    if kind not in kinds or not point:
        raise ValueError(f"--cancel {cancel!r} is not {' or '.join(kinds)}:POINT, as native:3")
    return replace(schedule, cancel_kind=CancelKind(kind), cancel_at=parse_point(point))


def _tell(console: Console, finding: Finding | None, num_runs: int, timeline: Path | None) -> int:
    if finding is None:
        console.print(f"{num_runs} runs, nothing found", highlight=False)
        return 0
    console.print(f"run {num_runs} went wrong:", highlight=False)
    console.print(str(finding), highlight=False, markup=False, soft_wrap=True)
    if timeline is not None:
        finding.picture(timeline)
        console.print(f"picture: {timeline}", highlight=False)
    return 1


def _summary(explored: Exploration) -> str:
    spans = _spread(explored.makespans_s)
    calls = f"{len(explored.calls)} sequences of device calls"
    return f"{calls}; virtual time of a run: {spans}{_unused(explored)}"


def _unused(explored: Exploration) -> str:
    return "" if explored.num_calls else "\nno run made a device call: is it on trial.device?"


def _spread(seconds: Iterable[float]) -> str:
    ordered = sorted(seconds) or [0.0]
    least, middle, most = ordered[0], ordered[len(ordered) // 2], ordered[-1]
    return f"{least * 1e3:.1f} to {most * 1e3:.1f} ms, median {middle * 1e3:.1f} ms"
