"""The WAR barrier: what each policy orders, and which one a platform gets."""

import asyncio
import threading
from typing import Any

import pytest

from aio_sched.barrier import WarBarrier, WarPolicy
from aio_sched.loop import OverlapScheduler
from aio_sched.stages import Step
from streams.device import Platform, open_device
from tests.aio_sched.pipelines import Doubler, until


def resolve(setting: str, platform: Platform = Platform.CPU, copies: int = 1) -> WarBarrier:
    """Resolve with depth 2."""
    return WarBarrier.resolve(setting, "test", platform=platform, table_copies=copies, depth=2)


@pytest.mark.parametrize(
    ("setting", "platform", "copies", "policy"),
    [
        ("auto", Platform.CUDA, 1, WarPolicy.READ_DONE),
        ("auto", Platform.CUDA, 2, WarPolicy.READ_DONE),
        ("auto", Platform.ROCM, 2, WarPolicy.ROTATE),
        ("auto", Platform.ROCM, 1, WarPolicy.READ_DONE),
        ("auto", Platform.CPU, 3, WarPolicy.ROTATE),
        ("cuda_only", Platform.CUDA, 1, WarPolicy.READ_DONE),
        ("cuda_only", Platform.ROCM, 2, WarPolicy.OFF),
        ("whole_forward", Platform.ROCM, 2, WarPolicy.WHOLE_FORWARD),
        ("rotate", Platform.CUDA, 2, WarPolicy.ROTATE),
        ("off", Platform.CUDA, 2, WarPolicy.OFF),
    ],
)
def test_policy_follows_setting_platform_and_copies(
    setting: str, platform: Platform, copies: int, policy: WarPolicy
) -> None:
    """The platform table, and each override."""
    barrier = resolve(setting, platform, copies)
    assert barrier.policy is policy
    assert barrier.reason


def test_unknown_policy_is_refused() -> None:
    """The message lists what there is."""
    with pytest.raises(ValueError, match=r"'sometimes' \(test\) is unknown.*read_done"):
        resolve("sometimes")


def test_rotate_without_enough_copies_is_refused() -> None:
    """Rotating one copy would be no protection at all."""
    with pytest.raises(ValueError, match=r"needs 2 copies.*table_copies=1"):
        resolve("rotate")


async def test_environment_variable_overrides_the_default_but_not_the_argument(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AIO_SCHED_WAR_BARRIER stands in where no argument is given."""
    monkeypatch.setenv("AIO_SCHED_WAR_BARRIER", "whole_forward")
    async with OverlapScheduler(Doubler(), "cpu") as scheduler:
        assert scheduler.turns.barrier.policy is WarPolicy.WHOLE_FORWARD
        assert "AIO_SCHED_WAR_BARRIER" in scheduler.turns.barrier.reason
    async with OverlapScheduler(Doubler(), "cpu", war_barrier="off") as scheduler:
        assert scheduler.turns.barrier.policy is WarPolicy.OFF
    monkeypatch.setenv("AIO_SCHED_WAR_BARRIER", "nonsense")
    with pytest.raises(ValueError, match=r"nonsense.*AIO_SCHED_WAR_BARRIER"):
        async with OverlapScheduler(Doubler(), "cpu"):
            pass


class SharedTable(Doubler):
    """Prepare writes a table on the schedule stream that forward reads.

    Forward reads the table at its start, waits for ``read_on`` and reads it again; after
    that it holds the device until ``finish``.
    """

    def __init__(self, num_items: int, *, say_read_done: bool, copies: int = 1) -> None:
        super().__init__(list(range(num_items)))
        self.table_copies = copies
        self.tables = [-1] * copies
        self.say_read_done = say_read_done
        self.reads: list[tuple[int, int, int]] = []
        self.written = [threading.Event() for _ in range(num_items)]
        self.reading = [threading.Event() for _ in range(num_items)]
        self.read_on = [threading.Event() for _ in range(num_items)]
        self.finish = [threading.Event() for _ in range(num_items)]

    async def prepare(self, step: Step) -> int | None:
        item = await super().prepare(step)
        if item is not None:
            step.launch(self.write, step.rotation % self.table_copies, item)
        return item

    async def forward(self, step: Step, inputs: int) -> Any:
        read = step.launch(self.read_twice, step.rotation % self.table_copies, inputs)
        if self.say_read_done:
            step.shared_read_done()
        return step.copy_to_host(step.launch(self.rest_of_forward, read, inputs))

    def write(self, table: int, item: int) -> None:
        self.tables[table] = item
        self.written[item].set()

    def read_twice(self, table: int, item: int) -> int:
        first = self.tables[table]
        self.reading[item].set()
        assert self.read_on[item].wait(20.0)
        self.reads.append((item, first, self.tables[table]))
        return first

    def rest_of_forward(self, value: int, item: int) -> int:
        assert self.finish[item].wait(20.0)
        return 2 * value

    def let_go(self) -> None:
        for gate in (*self.read_on, *self.finish):
            gate.set()


async def passes_without(pipeline: SharedTable, event: threading.Event) -> bool:
    """Whether ``event`` comes within a moment although the device is held."""
    return await asyncio.to_thread(event.wait, 0.2)


async def test_read_done_lets_prepare_write_after_the_reads_but_not_before() -> None:
    """Prepare n+1's device write waits for the read-done point of forward n, not its end."""
    pipeline = SharedTable(3, say_read_done=True)
    async with OverlapScheduler(pipeline, "cpu", war_barrier="read_done"):
        await until(lambda: pipeline.reading[0].is_set() and ("prepare", 1) in pipeline.log)
        assert not await passes_without(pipeline, pipeline.written[1])
        pipeline.read_on[0].set()
        assert await asyncio.to_thread(pipeline.written[1].wait, 20.0), "forward 0 still runs"
        assert pipeline.results == []
        pipeline.let_go()
        await until(pipeline.all_ended.is_set)
    assert pipeline.reads == [(item, item, item) for item in range(3)]


@pytest.mark.parametrize(
    ("policy", "say_read_done"), [("read_done", False), ("whole_forward", True)]
)
async def test_without_read_done_event_prepare_waits_for_the_whole_forward(
    policy: str, say_read_done: bool
) -> None:
    """A step that posted nothing, and the coarse policy, order behind all of forward."""
    pipeline = SharedTable(2, say_read_done=say_read_done)
    async with OverlapScheduler(pipeline, "cpu", war_barrier=policy):
        await until(lambda: pipeline.reading[0].is_set() and ("prepare", 1) in pipeline.log)
        pipeline.read_on[0].set()
        assert not await passes_without(pipeline, pipeline.written[1])
        pipeline.let_go()
        await until(pipeline.all_ended.is_set)
    assert pipeline.reads == [(0, 0, 0), (1, 1, 1)]


async def test_off_lets_prepare_overwrite_what_forward_reads() -> None:
    """Without a barrier the hazard is real: forward 0 sees step 1's table."""
    pipeline = SharedTable(2, say_read_done=True)
    async with OverlapScheduler(pipeline, "cpu", war_barrier="off"):
        await until(lambda: pipeline.reading[0].is_set())
        assert await asyncio.to_thread(pipeline.written[1].wait, 20.0)
        pipeline.let_go()
        await until(pipeline.all_ended.is_set)
    assert pipeline.reads[0][2] == 1, "forward 0 read the table of step 1"


async def test_rotate_needs_no_wait_since_each_step_has_its_own_copy() -> None:
    """With a copy per step in flight prepare writes at once, and forward keeps its own."""
    pipeline = SharedTable(4, say_read_done=True, copies=2)
    async with OverlapScheduler(pipeline, "cpu", war_barrier="rotate"):
        await until(lambda: pipeline.reading[0].is_set())
        assert await asyncio.to_thread(pipeline.written[1].wait, 20.0)
        assert not await passes_without(pipeline, pipeline.written[2]), "depth bounds the reuse"
        pipeline.let_go()
        await until(pipeline.all_ended.is_set)
    assert pipeline.reads == [(item, item, item) for item in range(4)]


def test_mailbox_is_cleared_on_take() -> None:
    """A read-done event serves one step; the next one without falls back to all of forward."""
    barrier = WarBarrier(WarPolicy.READ_DONE)
    waits: list[Any] = []

    class Recorder:
        def wait_event(self, event: object) -> None:
            waits.append(event)

        def wait_stream(self, stream: object) -> None:
            waits.append("whole forward")

    with open_device("cpu") as device:
        event = device.stream("forward").record("shared_read_done")

        class FakeStep:
            schedule_stream = Recorder()
            forward_stream = device.streams[0]

        barrier.post(event)
        barrier.apply(FakeStep())  # type: ignore[arg-type]  # only the two streams are used
        barrier.apply(FakeStep())  # type: ignore[arg-type]  # as above
    assert waits == [event, "whole forward"]


async def test_raw_fence_holds_forward_until_the_table_is_written() -> None:
    """Forward must not start before prepare's launch is done (forward waits schedule)."""
    gate = threading.Event()
    order: list[str] = []

    class SlowWrite(Doubler):
        async def prepare(self, step: Step) -> int | None:
            item = await super().prepare(step)
            if item is not None:
                step.launch(self.write)
            return item

        def write(self) -> None:
            assert gate.wait(20.0)
            order.append("write")

    def read(item: int) -> int:
        order.append("read")
        return item

    pipeline = SlowWrite([1])
    pipeline.on_device = read
    async with OverlapScheduler(pipeline, "cpu"):
        await until(lambda: ("forward", 1) in pipeline.log)
        await asyncio.to_thread(lambda: None)
        assert order == []
        gate.set()
        await until(pipeline.all_ended.is_set)
    assert order == ["write", "read"]
