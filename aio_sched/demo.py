"""The demo: continue prompts overlapped, then sequentially, and compare the two."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from aio_sched.engine.engine import Engine
from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.requests import Request, SamplingParams
from aio_sched.engine.weights import load_model
from aio_sched.loop_lag import LoopLagMonitor
from aio_sched.metrics import SchedulerStats
from aio_sched.metrics.table import stats_table
from aio_sched.prompts import PROMPTS
from aio_sched.trace import TraceRecorder
from streams.device import Device, open_device

__all__ = ["DemoOptions", "run_demo"]


@dataclass(frozen=True)
class DemoOptions:
    """What the demo does.

    Attributes:
        prompts: what to continue; built-in beginnings if empty.
        num_requests: requests in all, cycling through the prompts.
        max_tokens: tokens of the longest continuation; the others are shorter.
        temperature: of every second request; the others are greedy.
        max_running: requests that decode together.
        trace: where to write the overlapped run's trace; its picture goes beside it.
    """

    prompts: Sequence[str] = ()
    num_requests: int = 24
    max_tokens: int = 120
    temperature: float = 0.7
    device: str = "auto"
    max_running: int = 8
    trace: Path = Path("aio-sched-demo.json")


@dataclass(frozen=True)
class DemoRun:
    """How one schedule did."""

    requests: Sequence[Request]
    stats: SchedulerStats
    num_blocking_calls: int


async def run_demo(options: DemoOptions, console: Console) -> bool:
    """Run the demo; return whether both schedules gave the same texts.

    Raises:
        PromptError: a prompt cannot be continued.
        UnknownDeviceError, DeviceUnavailableError: there is no such device.
        OSError: the trace cannot be written.
    """
    with open_device(options.device, timing=True) as device:
        model = load_model(device=device.torch_device)
        console.print(f"device [bold]{device.name}[/], {_describe(model)}")
        await _warm_up(model, device)
        trace = TraceRecorder()
        overlapped = await _run(options, model, device, console, trace)
        _print_texts(console, overlapped.requests)
        sequential = await _run(options, model, device, console, None)
    is_same = _texts(overlapped) == _texts(sequential)
    console.print(_comparison(overlapped, sequential, is_same=is_same))
    picture = options.trace.with_suffix(".svg")
    trace.write(options.trace)
    trace.picture(picture, last=6, title="aio-sched demo")
    console.print(f"trace   {options.trace} (open it at ui.perfetto.dev)\npicture {picture}")
    return is_same


async def _run(
    options: DemoOptions,
    model: ByteTransformer,
    device: Device,
    console: Console,
    trace: TraceRecorder | None,
) -> DemoRun:
    """Run all requests through one schedule; sequential if there is no trace."""
    monitors = (trace,) if trace is not None else ()
    engine = Engine(
        model,
        device,
        max_running=options.max_running,
        overlap=trace is not None,
        monitors=monitors,
        loop_lag=(lag := LoopLagMonitor(interval_s=0.001)),
    )
    async with lag, engine:
        requests = [engine.submit(prompt, params) for prompt, params in _requests(options)]
        with _display(console, requests, "overlapped" if trace else "sequential"):
            await asyncio.gather(*(_read(engine, request) for request in requests))
        stats = engine.scheduler.stats
    if trace is not None:
        trace.add_stalls(lag.stalls)
    guard = engine.scheduler.guard
    return DemoRun(requests, stats, guard.num_blocked)


def _requests(options: DemoOptions) -> list[tuple[str, SamplingParams]]:
    prompts = itertools.cycle(options.prompts or PROMPTS)
    requests = []
    for number, prompt in zip(range(options.num_requests), prompts, strict=False):
        max_tokens = max(1, options.max_tokens * (4 + number % 5) // 8)  # half to all of it
        temperature = options.temperature * (number % 2)
        requests.append((prompt, SamplingParams(max_tokens, temperature, seed=number)))
    return requests


async def _read(engine: Engine, request: Request) -> None:
    async for _ in engine.stream(request):
        pass


async def _warm_up(model: ByteTransformer, device: Device) -> None:
    """Let torch choose its kernels before anything is measured."""
    async with Engine(model, device, overlap=False) as engine:
        await engine.complete(PROMPTS[0], SamplingParams(max_tokens=4))


# What the terminal shows ----------------------------------------------------


@contextmanager
def _display(console: Console, requests: Sequence[Request], schedule: str) -> Iterator[None]:
    """Show progress and the newest text of each running request while the block runs."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens"),
        TimeElapsedColumn(),
        console=console,
    )
    task = progress.add_task(f"{schedule:11}", total=sum(r.params.max_tokens for r in requests))

    def render() -> Group:
        progress.update(task, completed=sum(_num_done(request) for request in requests))
        running = [r for r in requests if r.output and r.finish is None]
        return Group(progress, *(_line(request, console.width) for request in running))

    # Drawn by a thread of rich's, four times a second: the loop does not wait for a terminal.
    with Live(get_renderable=render, console=console, refresh_per_second=4, transient=True):
        yield
    console.print(progress)


def _num_done(request: Request) -> int:
    """Count an ended request as whole: its text may be shorter than allowed."""
    return len(request.output) if request.finish is None else request.params.max_tokens


def _line(request: Request, width: int) -> Text:
    room = max(20, width - 40)
    newest = bytes(request.output[-room:]).decode(errors="replace").replace("\n", " ")
    return Text.assemble((f"{request.prompt.decode()[:34]:36}", "bold"), newest, overflow="crop")


def _print_texts(console: Console, requests: Sequence[Request], num_shown: int = 4) -> None:
    for request in requests[:num_shown]:
        how = (
            f"temperature {request.params.temperature}" if request.params.temperature else "greedy"
        )
        text = bytes(request.output).decode(errors="replace")
        console.print(Text.assemble((request.prompt.decode(), "bold"), text, (f"  [{how}]", "dim")))
        console.print()


def _describe(model: ByteTransformer) -> str:
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"byte-level transformer with {num_parameters / 1e6:.1f} M parameters"


def _texts(run: DemoRun) -> list[bytes]:
    return [bytes(request.output) for request in run.requests]


def _comparison(overlapped: DemoRun, sequential: DemoRun, *, is_same: bool) -> Table:
    table = stats_table({"overlapped": overlapped.stats, "sequential": sequential.stats})
    runs = (overlapped, sequential)
    table.add_row("blocking calls on the loop", *(str(run.num_blocking_calls) for run in runs))
    verdict = "[green]identical[/]" if is_same else "[red]DIFFERENT[/]"
    table.add_row("outputs", verdict, "")
    return table
