"""Scenarios: some askers, one pipeline, and what must hold when all is over."""

import asyncio
import signal
from collections.abc import Callable, Hashable
from typing import Any

import anyio

from aio_sched.engine.engine import Engine
from aio_sched.engine.requests import SamplingParams
from aio_sched.lifecycle import Scheduler
from aio_sched.testing.schedule import CancelKind
from aio_sched.testing.trial import Trial
from streams.device import Device
from tests.aio_sched.engine.tiny import CHUNK, assert_at_rest, rigged
from tests.faults.ledger import How, Ledger
from tests.faults.pipelines import Accounted

__all__ = ["Generating", "Service", "SignalledService"]


class _Scenario:
    """What services and engines have in common: askers, one of whom may be the victim."""

    def __init__(self, num_askers: int, victim: str, kind: CancelKind) -> None:
        self.num_askers = num_askers
        self.victim = victim
        self.kind = kind
        self.ledger = Ledger()

    def aim(self, trial: Trial, scheduler: Scheduler) -> None:
        """Let the cut hit one of the scheduler's tasks, if that is the victim."""
        if self.victim in ("issuer", "publisher"):
            name = f"aio-sched-{self.victim}"
            trial.aim(lambda: [t.cancel() for t in scheduler._tasks if t.get_name() == name])

    async def ask_all(self, trial: Trial, ask: Callable[[int], Any]) -> None:
        """Let all ask at once, and wait for all ends."""
        scopes = [anyio.CancelScope() for _ in range(self.num_askers)]
        asking = [
            asyncio.ensure_future(self._asker(trial, scope, number, ask))
            for number, scope in enumerate(scopes)
        ]
        if self.victim == "asker":
            is_native = self.kind is CancelKind.NATIVE
            trial.aim(asking[1].cancel if is_native else scopes[1].cancel)
        await asyncio.gather(*asking, return_exceptions=True)

    async def _asker(
        self, trial: Trial, scope: anyio.CancelScope, number: int, ask: Callable[[int], Any]
    ) -> None:
        with scope:
            for _ in range(number):
                await asyncio.sleep(0)
            await trial.counted(self.ledger.follow(number, ask(number)))


class Service(_Scenario):
    """Asks one of the pipelines of ``pipelines.py`` for some numbers.

    Args:
        make: makes the pipeline.
        num_askers: how many numbers.
        victim: whom the cut hits.
        kind: how.
        is_dry: whether all must be given back at the end; not so on a device that hangs.
        options: the scheduler's.
    """

    def __init__(
        self,
        make: Callable[[Device], Accounted],
        num_askers: int = 5,
        victim: str = "scenario",
        kind: CancelKind = CancelKind.NATIVE,
        *,
        is_dry: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(num_askers, victim, kind)
        self._make = make
        self._is_dry = is_dry
        self._options = options

    async def __call__(self, trial: Trial) -> dict[Hashable, int]:
        """Run, and return the answers."""
        self.ledger = Ledger()
        self.pipeline = pipeline = self._make(trial.device)
        self.scheduler = scheduler = trial.scheduler(pipeline, **self._options)
        trial.at_rest(self.ledger.check)
        trial.at_rest(self.answers_are_right)
        trial.at_rest(pipeline.steps.check)
        if self._is_dry:
            trial.at_rest(self.is_at_rest)
            trial.at_rest(lambda: not trial.device.streams)
        try:
            async with scheduler:
                self.aim(trial, scheduler)
                await self.serve(trial)
        finally:
            pipeline.close()
        return self.ledger.ended(How.RESULT)

    async def serve(self, trial: Trial) -> None:
        """Do what the scenario is about while the scheduler runs."""
        await self.ask_all(trial, self.pipeline.ask)

    def answers_are_right(self) -> None:
        """Nobody got another's answer."""
        for number, answer in self.ledger.ended(How.RESULT).items():
            assert isinstance(number, int)
            assert answer == self.pipeline.right(number), (number, answer)

    def is_at_rest(self) -> None:
        """Raise if anything of the pipeline or the scheduler is still in use."""
        self.pipeline.check()
        turns = self.scheduler.turns
        assert not turns.in_flight
        assert len(turns.keep_alive) == turns.keep_alive.num_claimed == 0
        assert all(task.done() for task in self.scheduler._tasks)


class SignalledService(Service):
    """A service that ends when SIGTERM comes: what is in flight is answered."""

    async def serve(self, trial: Trial) -> None:
        """Serve until all are answered, or the signal comes."""
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stopping.set)
        try:
            asking = asyncio.ensure_future(self.ask_all(trial, self.pipeline.ask))
            waiting = asyncio.ensure_future(stopping.wait())
            await asyncio.wait([asking, waiting], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if stopping.is_set():
                await self.scheduler.stop(drain=True)
            await asking
        finally:
            loop.remove_signal_handler(signal.SIGTERM)


class Generating(_Scenario):
    """Asks the engine, with the tiny model, to continue some texts, more than it has slots."""

    def __init__(
        self,
        num_askers: int = 3,
        victim: str = "scenario",
        kind: CancelKind = CancelKind.NATIVE,
        *,
        is_dry: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(num_askers, victim, kind)
        self._is_dry = is_dry
        self._options = options

    async def __call__(self, trial: Trial) -> dict[Hashable, bytes]:
        """Run, and return the texts."""
        self.ledger = Ledger()
        model = rigged()
        self.engine = engine = Engine(
            model, trial.device, max_running=2, chunk=CHUNK, overlap=trial.overlap, **self._options
        )
        trial.watch(engine.pipeline)
        trial.at_rest(self.ledger.check)
        if self._is_dry:
            trial.at_rest(lambda: assert_at_rest(engine))
            trial.at_rest(lambda: not trial.device.streams)
        async with engine:
            self.aim(trial, engine.scheduler)
            await self.ask_all(trial, self._read)
        return self.ledger.ended(How.RESULT)

    async def _read(self, number: int) -> bytes:
        prompt, params = bytes([1 + number, 2, 3]), SamplingParams(max_tokens=2 + number % 2)
        return bytes([token async for token in self.engine.generate(prompt, params)])
