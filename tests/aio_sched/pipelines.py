"""Pipelines that the tests run: real work on the device, with hooks to hold and break it."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from aio_sched.stages import HostCopy, Pipeline, Step


class Doubler(Pipeline[int, HostCopy]):
    """Doubles numbers on the device; records what happened, in order.

    Attributes:
        log: (what, item) in the order in which the host saw it.
        results: what was published, in order.
        failures: (item, error) as given to ``failed``.
        closings: errors given to ``closed``.
    """

    def __init__(self, items: list[int] | None = None) -> None:
        self.inbox = deque(items or [])
        self.num_expected = len(self.inbox)
        self.log: list[tuple[str, int]] = []
        self.results: list[int] = []
        self.failures: list[tuple[int | None, BaseException]] = []
        self.closings: list[BaseException | None] = []
        self.all_ended = asyncio.Event()
        self.on_device: Callable[[int], int] = lambda item: 2 * item

    async def prepare(self, step: Step) -> int | None:
        """Take the next number."""
        if not self.inbox:
            return None
        item = self.inbox.popleft()
        self.log.append(("prepare", item))
        return item

    async def forward(self, step: Step, inputs: int) -> HostCopy:
        """Double it."""
        self.log.append(("forward", inputs))
        return step.copy_to_host(step.launch(self.on_device, inputs))

    async def publish(self, step: Step, inputs: int, output: HostCopy) -> None:
        """Deliver it."""
        self.results.append(await output)
        self.log.append(("publish", inputs))
        self._count()

    def failed(self, step: Step, inputs: int | None, error: BaseException) -> None:
        """Note the failure."""
        self.failures.append((inputs, error))
        self._count()

    def closed(self, error: BaseException | None) -> None:
        """Note the end."""
        self.closings.append(error)

    def _count(self) -> None:
        if len(self.results) + len(self.failures) >= self.num_expected:
            self.all_ended.set()


class Holdable(Doubler):
    """A doubler whose device work can be held, item by item."""

    def __init__(self, items: list[int], held: set[int]) -> None:
        super().__init__(items)
        self.started = {item: threading.Event() for item in items}
        self.release = {item: threading.Event() for item in held}
        self.on_device = self._hold

    def _hold(self, item: int) -> int:
        self.started[item].set()
        if item in self.release:
            assert self.release[item].wait(20.0), "the test never released it"
        return 2 * item

    def release_all(self) -> None:
        """Let everything run."""
        for gate in self.release.values():
            gate.set()


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until ``condition`` holds; the test's timeout bounds it."""
    async with asyncio.timeout(20.0):
        while not condition():  # noqa: ASYNC110 - conditions set by threads and tasks alike
            await asyncio.sleep(0.001)
