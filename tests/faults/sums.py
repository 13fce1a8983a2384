"""A pipeline with leased relay rows and copies to the host on a stream of their own."""

import asyncio
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from aio_sched import HostCopy, RelayBuffer, StagingRing, Step
from aio_sched.errors import SchedulerClosedError
from buffers.host_mirror import HostValues
from buffers.keep_alive import KeepAlive, Lease
from buffers.slots import Slot, SlotAllocator
from streams.clock import perf_s
from streams.device import Device
from streams.launch import Launch
from tests.faults.ledger import How
from tests.faults.pipelines import BATCH, Accounted

__all__ = ["Sums"]


@dataclass(eq=False)
class _Job:
    """A number on its way through the relay; its row is leased until its last use."""

    number: int
    answer: "asyncio.Future[int]"
    lease: Lease[Slot] | None = None
    num_scheduled: int = 0

    @property
    def is_open(self) -> bool:
        return not self.answer.done()


@dataclass(frozen=True)
class _Batch:
    jobs: tuple[_Job, ...]
    rounds: tuple[int, ...]
    numbers: Launch[Tensor]


@dataclass(frozen=True)
class _Rows:
    """What a forward has enqueued: the lanes of jobs that were open then, and both copies."""

    lanes: tuple[int, ...]
    pulled: HostValues
    copied: HostCopy


class Sums(Accounted):
    """Two steps for each number: the second gathers from the relay what the first published."""

    rounds = 2

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.waiting: deque[_Job] = deque()
        self.running: list[_Job] = []
        self.slots = SlotAllocator(BATCH)
        self.keep_alive = KeepAlive(device)
        self.relay = RelayBuffer(device, BATCH, {"sums": torch.int64})
        self.relay.follow(self.slots)
        self.staging = StagingRing(device, (BATCH,), torch.int64, depth=4)
        assert self.relay.mirror.stream is not None
        self.streams = (self.relay.mirror.stream,)
        self._closed_by: BaseException | None = None
        self._is_closed = False

    @staticmethod
    def right(number: int) -> int:
        """Return what two rounds make of a number."""
        return 2 * (2 * number + 1) + 1

    async def ask(self, number: int) -> int:
        """Queue a number, and wait for what two rounds make of it."""
        if self._is_closed:
            raise SchedulerClosedError("no step will come") from self._closed_by
        self.wake()
        job = _Job(number, asyncio.get_running_loop().create_future())
        self.waiting.append(job)
        try:
            return await job.answer
        finally:
            self._settle(job)

    async def prepare(self, step: Step) -> _Batch | None:
        """Choose the jobs of the step; has no await."""
        self.keep_alive.collect()
        while self.waiting and self.slots.num_free:
            self._admit(self.waiting.popleft())
        jobs = tuple(j for j in self.running if j.is_open and j.num_scheduled < self.rounds)
        if not jobs:
            return None
        numbers = self.staging.upload(step.schedule_stream, [job.number for job in jobs])
        self.begin(step, (job.number for job in jobs))
        rounds = tuple(job.num_scheduled for job in jobs)
        for job in jobs:
            job.num_scheduled += 1
        return _Batch(jobs, rounds, numbers)

    async def forward(self, step: Step, inputs: _Batch) -> _Rows:
        """Advance the rows of the jobs that are still open: others' rows may have new owners."""
        lanes = tuple(lane for lane, job in enumerate(inputs.jobs) if job.is_open)
        leases = [lease for lane in lanes if (lease := inputs.jobs[lane].lease) is not None]
        slots = [lease.thing for lease in leases]
        old = [slot for lane, slot in zip(lanes, slots, strict=True) if inputs.rounds[lane]]
        uses = [self.relay.gathers(old), self.relay.publishes(slots, "sums")]
        launch = step.watch(
            self.relay.launch(
                self._advance,
                inputs.numbers,
                list(lanes),
                [slot.index for slot in slots],
                torch.tensor([inputs.rounds[lane] > 0 for lane in lanes], dtype=torch.bool),
                uses=uses,
            )
        )
        copied = step.copy_to_host(launch)
        pulled = self.relay.mirror.pull(slots)
        assert self.relay.mirror.stream is not None
        after_pull = self.relay.mirror.stream.record("pulled")
        # RAW: copy_done stands for the pull too, or rows would come back when nobody looks.
        step.copy_stream.wait_event(after_pull)
        for lease in leases:
            lease.use(launch)
            lease.use(after_pull)
        return _Rows(lanes, pulled, copied)

    async def publish(self, step: Step, inputs: _Batch, output: _Rows) -> None:
        """Answer the jobs whose last round this was."""
        self.started_s[step.index] = perf_s()
        copied: list[int] = (await output.copied).tolist()
        pulled = await output.pulled.wait(step.left_s)
        assert pulled is not None
        assert pulled["sums"].tolist() == copied
        for lane, value in zip(output.lanes, copied, strict=True):
            job = inputs.jobs[lane]
            if inputs.rounds[lane] == self.rounds - 1 and job.is_open:
                job.answer.set_result(value)
                self._settle(job)
        self.steps.end(step.index, How.RESULT)

    def failed(self, step: Step, inputs: _Batch | None, error: BaseException) -> None:
        """Fail the jobs of the step; a step whose upload failed has taken none."""
        super().failed(step, inputs, error)
        for job in inputs.jobs if inputs is not None else ():
            self._fail(job, error)

    def closed(self, error: BaseException | None) -> None:
        """Fail who waits and who runs."""
        self._is_closed, self._closed_by = True, error
        ending = SchedulerClosedError("no step will come")
        ending.__cause__ = error
        for job in (*self.waiting, *self.running):
            self._fail(job, ending)

    def check(self) -> None:
        """No job, slot, lease or block is left."""
        super().check()
        assert not self.waiting
        assert not self.running
        assert self.slots.num_free == self.slots.capacity
        assert len(self.keep_alive) == self.keep_alive.num_claimed == 0
        assert self.staging.num_free == 4

    def close(self) -> None:
        """Collect what the device has let go of, and give the mirror's stream back."""
        self.keep_alive.collect()
        self.relay.close()

    def _admit(self, job: _Job) -> None:
        if job.is_open:
            job.lease = self.keep_alive.lease(self.slots.take(), self.slots.give_back)
            self.running.append(job)

    def _fail(self, job: _Job, error: BaseException) -> None:
        if job.is_open:
            job.answer.set_exception(error)
        self._settle(job)

    def _settle(self, job: _Job) -> None:
        """Give up the claim on the row; it comes back when the device has made its last use."""
        if job in self.waiting:
            self.waiting.remove(job)
        if job in self.running:
            self.running.remove(job)
        if job.lease is not None:
            job.lease.close()

    def _advance(
        self, numbers: Tensor, lanes: list[int], rows: list[int], is_old: Tensor
    ) -> Tensor:
        index = torch.tensor(rows, dtype=torch.int64)
        sums = numbers[lanes].clone()
        sums[is_old] = self.relay.gather_rows(index[is_old])["sums"]
        sums = 2 * sums + 1
        self.relay.stash_rows(index, sums=sums)
        return sums
