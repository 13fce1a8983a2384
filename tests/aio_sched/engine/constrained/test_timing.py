"""Delayed sampling in virtual time: what waits for the automata, and what does not."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from aio_sched.engine.constrained.constraints import Automaton
from aio_sched.engine.engine import Engine
from aio_sched.engine.requests import SamplingParams
from aio_sched.testing import SimProfile, virtual_run
from streams.clock import active_clock
from streams.device import Device
from streams.monitor import DeviceMonitor, Span
from streams.simulated import SimDevice
from tests.aio_sched.engine.constrained.other_orders import (
    in_upstream_order,
    masks_before_the_model,
)
from tests.aio_sched.engine.tiny import CHUNK, LETTERS, rigged

FORWARD_MS = 1.0
SMALL_MS = 0.01
NUM_TOKENS = 24
MODELS = ("_run_decode", "_run_decode_and_keep", "_run_prefill", "_run_prefill_and_keep")


@dataclass(frozen=True)
class Costs(SimProfile):
    """The model takes a millisecond, everything else 10 microseconds."""

    def draw_ns(self, dice: random.Random, stage: str | None, label: str) -> int:
        """Look only at what is launched."""
        return round(FORWARD_MS * 1e6) if label in MODELS else round(SMALL_MS * 1e6)


Order = Callable[[Device, int, Callable[[], object]], Awaitable[None]]

COSTS = Costs("costs", query_us=1.0)


def spend(milliseconds: float) -> None:
    """Hold the event loop, as a computation on the host does."""
    clock = active_clock()
    assert clock is not None, "in virtual time"
    clock.advance_to(clock.now_ns + round(milliseconds * 1e6))


@dataclass(frozen=True)
class Slow:
    """Any letters, found out slowly."""

    mask_ms: float

    def automaton(self) -> Automaton:
        """Begin a text."""
        return _Slow(self.mask_ms)


class _Slow:
    def __init__(self, mask_ms: float) -> None:
        self._mask_ms = mask_ms

    def allowed(self) -> bytes:
        return bytes(number in LETTERS for number in range(256))

    def advance(self, token: int) -> None:
        spend(self._mask_ms)


class Watch(DeviceMonitor):
    """Keeps when the model ran."""

    def __init__(self) -> None:
        self.decodes: list[Span] = []

    def on_span(self, span: Span) -> None:
        """Keep."""
        if span.label.startswith("_run_decode"):
            self.decodes.append(span)

    def gaps_ms(self) -> list[float]:
        """Return how long the model paused between two decodes, at the steady state."""
        pairs = zip(self.decodes[2:-3], self.decodes[3:-2], strict=True)
        return [1e3 * (later.start_s - one.end_s) for one, later in pairs]


def engine_gaps_ms(mask_ms: float | None) -> list[float]:
    """Decode a free request, beside a constrained one unless the cost of a mask is None."""

    async def main() -> list[float]:
        watch = Watch()
        with SimDevice(profile=COSTS) as device, watch.watch(device):
            async with Engine(
                rigged(), device, max_running=2, prefill_rows=2, chunk=CHUNK
            ) as engine:
                engine.submit(b"\1", SamplingParams(NUM_TOKENS, temperature=80, seed=5))
                if mask_ms is not None:
                    engine.submit(b"\1", SamplingParams(NUM_TOKENS, constraint=Slow(mask_ms)))
                await engine.drained()
        return watch.gaps_ms()

    return virtual_run(main(), shuffle=False)


def other_gaps_ms(order: Order, mask_ms: float) -> list[float]:
    """Decode as many tokens in another order."""

    async def main() -> list[float]:
        watch = Watch()
        with SimDevice(profile=COSTS) as device, watch.watch(device):
            await order(device, NUM_TOKENS, lambda: spend(mask_ms))
        return watch.gaps_ms()

    return virtual_run(main(), shuffle=False)


def test_masks_that_are_found_while_the_model_runs_cost_the_device_nothing() -> None:
    """Between two models there is the sampling, and nothing at all where no mask is needed.

    The order of the engine that this re-creates does as well; waiting for the masks before the
    model does not.
    """
    mask_ms = 0.8 * FORWARD_MS
    free, ours = engine_gaps_ms(None), engine_gaps_ms(mask_ms)
    assert set(free) == {0.0}
    assert ours == pytest.approx([SMALL_MS] * len(ours))
    upstream = other_gaps_ms(in_upstream_order, mask_ms)
    assert upstream == pytest.approx([SMALL_MS] * len(upstream))
    assert min(other_gaps_ms(masks_before_the_model, mask_ms)) > mask_ms


def test_of_slow_masks_the_device_waits_for_what_the_model_does_not_cover() -> None:
    """Half a millisecond of one and a half, and the ways to the host and back."""
    ours = engine_gaps_ms(1.5 * FORWARD_MS)
    assert min(ours) > 0.5 * FORWARD_MS
    assert max(ours) < 0.5 * FORWARD_MS + 6 * SMALL_MS
    upstream = other_gaps_ms(in_upstream_order, 1.5 * FORWARD_MS)
    assert max(ours) < max(upstream) + 2 * SMALL_MS
