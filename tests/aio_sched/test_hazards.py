"""The scheduler under the hazard checker: clean in both modes, and reported where it is not."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import pytest
import torch
from torch import Tensor

from aio_sched import (
    Engine,
    HazardChecker,
    HostCopy,
    Inbox,
    Launch,
    OverlapScheduler,
    Pipeline,
    RelayBuffer,
    Request,
    SamplingParams,
    SequentialScheduler,
    SlotAllocator,
    StagingRing,
    Step,
    load_model,
    open_device,
)
from aio_sched.engine.pipeline import GenerationPipeline
from aio_sched.lifecycle import Scheduler
from aio_sched.testing import virtual_run
from buffers.slots import Slot
from streams.device import Device
from streams.hazards.tasks import TaskHosts

SEEDS = range(6)
NUM_ITEMS = 12


class Rows(Pipeline[Slot, Sequence[HostCopy]]):
    """A step uploads a table that the next one overwrites, and passes a row to the next."""

    def __init__(self, device: Device, pause_s: float) -> None:
        self.pause_s = pause_s
        self.inbox: Inbox[int, int] = Inbox(self.wake)
        self.table = torch.zeros(4, dtype=torch.int64)
        self.relay = RelayBuffer(device, 3, {"tokens": torch.int64})
        self.slots = SlotAllocator(3)
        self.relay.follow(self.slots)
        self.staging = StagingRing(device, (4,), torch.int64, depth=4)

    async def prepare(self, step: Step) -> Slot | None:
        items = self.inbox.take(step, 1)
        if not items:
            return None
        if self.pause_s:
            await asyncio.sleep(self.pause_s)  # the publisher may give slots back meanwhile
        values = [items[0]] * 4
        with await self.staging.slot() as slot:
            slot.host.copy_(torch.tensor(values))
            uploaded = slot.upload(step.schedule_stream)
        step.launch(_fill, self.table, uploaded, writes=[self.table])
        row = self.slots.take(f"step {step.index}")
        step.when_done(lambda: self.slots.give_back(row))
        return row

    async def forward(self, step: Step, inputs: Slot) -> Sequence[HostCopy]:
        summed: Launch[Tensor] = step.launch(_sum, self.table, reads=[self.table])
        step.shared_read_done()
        self.relay.publish([inputs], tokens=summed)
        return step.copy_to_host(summed), step.copy_to_host(self.relay.gather([inputs]))

    async def publish(self, step: Step, inputs: Slot, output: Sequence[HostCopy]) -> None:
        summed, row = [await copy for copy in output]
        assert torch.equal(row["tokens"], summed)
        self.inbox.answer(step, summed.tolist())


def _fill(table: Tensor, values: Tensor) -> None:
    table.copy_(values)


def _sum(table: Tensor) -> Tensor:
    return table.sum(0, keepdim=True)


def run(
    seed: int,
    *,
    strict: bool,
    kind: type[Scheduler] = OverlapScheduler,
    barrier: str = "read_done",
    pause_s: float = 0.001,
) -> HazardChecker:
    """Serve some items in virtual time, under a checker."""
    checker = HazardChecker(strict=strict)

    async def main() -> None:
        with open_device("sim", seed=seed) as device, checker.watch(device):
            rows = Rows(device, pause_s)
            async with kind(rows, device, war_barrier=barrier):
                await asyncio.gather(*(rows.inbox.ask(item) for item in range(NUM_ITEMS)))

    virtual_run(main(), seed=seed, observers=[checker.observer()] if strict else ())
    return checker


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("barrier", ["read_done", "whole_forward"])
@pytest.mark.parametrize("kind", [OverlapScheduler, SequentialScheduler])
def test_scheduler_and_buffers_are_clean(kind: type[Scheduler], barrier: str, strict: bool) -> None:
    """Whatever the schedule of device and tasks: no report, also with a clock per task."""
    for seed in SEEDS:
        checker = run(seed, strict=strict, kind=kind, barrier=barrier)
        checker.raise_if_any()
        assert checker.num_accesses > 5 * NUM_ITEMS


@pytest.mark.parametrize("strict", [False, True])
def test_table_without_a_barrier_is_reported_in_every_run(strict: bool) -> None:
    """``off`` is sound only for pipelines that share no table."""
    for seed in SEEDS:
        (report,) = run(seed, strict=strict, barrier="off", pause_s=0.0).reports
        assert report.kind == "WAR"
        assert report.missing == "shared_read_done#0 -> schedule"
        assert f"--seed {seed}" in str(report)


def test_strict_mode_needs_the_hand_overs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them what issuer and publisher pass to each other would look like a race."""
    monkeypatch.setattr(TaskHosts, "handoff", lambda self, obj: None)
    assert any(run(seed, strict=True).reports for seed in SEEDS)


def run_engine(seed: int, *, strict: bool) -> HazardChecker:
    """Generate on a simulated device; every second reader leaves early."""
    checker, model = HazardChecker(strict=strict), load_model()

    async def read(engine: Engine, request: Request, num: int) -> None:
        tokens = engine.stream(request)
        async with aclosing(tokens):
            for _ in range(num):
                await anext(tokens, None)

    async def main() -> None:
        with open_device("sim", seed=seed) as device, checker.watch(device):
            async with Engine(model, device, max_running=2) as engine:
                params = SamplingParams(max_tokens=6)
                requests = [engine.submit(f"The cat {n}", params) for n in range(4)]
                async with asyncio.TaskGroup() as group:
                    for n, request in enumerate(requests):
                        group.create_task(read(engine, request, 2 if n % 2 else 6))

    virtual_run(main(), seed=seed, observers=[checker.observer()] if strict else ())
    return checker


@pytest.mark.parametrize("strict", [False, True])
def test_engine_is_clean_under_aborts(strict: bool) -> None:
    """Slots, cache rows and relay rows are given back behind their last use."""
    for seed in range(3):
        checker = run_engine(seed, strict=strict)
        checker.raise_if_any()
        assert checker.num_accesses > 100


def test_slot_that_no_step_claims_is_reported_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """An aborted request would free rows that the step in flight uses."""
    monkeypatch.setattr(GenerationPipeline, "_claim", lambda self, step, requests: None)
    for seed in range(3):
        assert {report.kind for report in run_engine(seed, strict=False).reports} == {
            "early_return"
        }
