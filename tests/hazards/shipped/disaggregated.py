"""Prefill and decode in one process: on one device, and on two devices that share a clock."""

import asyncio
from contextlib import aclosing

from aio_sched.disaggregated.engine import DisaggregatedEngine
from aio_sched.engine.requests import Request, SamplingParams
from aio_sched.testing import Scenario, Trial
from streams.device import Device, open_device
from tests.aio_sched.disaggregated.sides import assert_both_at_rest, opened

__all__ = ["SHIPPED", "disaggregated_on_one_device", "disaggregated_on_two_devices"]


async def disaggregated_on_one_device(trial: Trial) -> list[bytes]:
    """Continue texts, more than there is room for, of which some readers leave."""
    return await _continue(trial, (trial.device, trial.device))


async def disaggregated_on_two_devices(trial: Trial) -> list[bytes]:
    """The same with a device for each side."""
    with open_device("sim", seed=trial.dice.randrange(1 << 30), profile="random") as other:
        for monitor in trial.device.monitors:
            other.add_monitor(monitor)
        return await _continue(trial, (trial.device, other))


async def _continue(trial: Trial, devices: tuple[Device, Device]) -> list[bytes]:
    sides = opened(devices, capacity=2, overlap=trial.overlap)
    trial.watch(sides.engine.pipeline)
    trial.watch(sides.worker.pipeline)
    async with sides.running() as engine:
        trial.at_rest(lambda: assert_both_at_rest(sides))
        async with asyncio.TaskGroup() as group:
            reading = []
            for number in range(5):
                params = SamplingParams(max_tokens=2 + number, temperature=number % 2, seed=number)
                request = engine.submit(bytes([1 + number, 2, 3, 4, 5, 6][: 3 + number]), params)
                leaves_after = 2 if number % 3 == 2 else 100
                reading.append(group.create_task(_read(engine, request, leaves_after)))
                await asyncio.sleep(trial.dice.uniform(0.0, 0.003))
        await engine.drained()
    return [task.result() for task in reading]


async def _read(engine: DisaggregatedEngine, request: Request, num_tokens: int) -> bytes:
    async with aclosing(engine.stream(request)) as tokens:
        read = [
            token for _ in range(num_tokens) if (token := await anext(tokens, None)) is not None
        ]
    return bytes(read)


SHIPPED: tuple[Scenario, ...] = (disaggregated_on_one_device, disaggregated_on_two_devices)
