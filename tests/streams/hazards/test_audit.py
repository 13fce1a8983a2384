"""What launches really do, against what they declare."""

import pytest
import torch
from torch import Tensor

from buffers.relay import RelayBuffer
from streams.device import open_device
from streams.hazards import Access, AccessAudit, HazardChecker
from streams.hazards.shadow import Memory


@pytest.fixture
def checker() -> HazardChecker:
    """Gets the reports of the audit."""
    return HazardChecker()


async def audited(
    checker: HazardChecker, fn: object, *args: Tensor, reads: object = (), writes: object = ()
) -> list[str]:
    """Run one launch on the CPU device; return what the audit found, in words."""
    assert callable(fn)
    audit = AccessAudit(checker)
    audit.register(*args)
    with open_device("cpu") as device, checker.watch(device), audit.watch(device):
        await device.stream("forward").launch(fn, *args, reads=reads, writes=writes)  # type: ignore[arg-type]  # tuples
    assert audit.num_operators
    return [report.message for report in checker.reports]


def double(source: Tensor, target: Tensor) -> None:
    """Read one tensor and write the other."""
    target.copy_(source * 2)


async def test_declared_accesses_pass(checker: HazardChecker) -> None:
    """What is declared, and views of it, are no finding."""
    a, b = torch.zeros(4, 4), torch.zeros(2, 2)
    assert (
        await audited(checker, lambda a, b: double(a[1:3, :2], b), a, b, reads=[a], writes=[b])
        == []
    )
    assert await audited(checker, lambda a, b: a.t().reshape(16).sum(), a, b, reads=[a]) == []


async def test_undeclared_read_and_write_are_reported(checker: HazardChecker) -> None:
    """Each with the operator that did it; new memory of the launch is its own."""
    a, b = torch.zeros(2), torch.zeros(2)
    assert await audited(checker, double, a, b) == [
        "aten.mul.Tensor reads it, and reads= does not say so",
        "aten.copy_.default writes it, and writes= does not say so",
    ]
    assert {report.kind for report in checker.reports} == {"undeclared"}
    assert "double #1" in str(checker.reports[0])


async def test_declared_part_does_not_cover_the_whole(checker: HazardChecker) -> None:
    """Bytes are compared, not tensors."""
    a, b = torch.zeros(4, 2), torch.zeros(2)
    fill = lambda a, b: a.fill_(1)  # noqa: E731  # two of them
    assert len(await audited(checker, fill, a, b, writes=[a[:3]])) == 1
    assert len(await audited(HazardChecker(), fill, a, b, writes=[a[:2], a[2:]])) == 0


async def test_gap_between_declared_parts_is_not_declared(checker: HazardChecker) -> None:
    """What lies between two declared parts belongs to somebody else."""
    a, b = torch.zeros(6, 2), torch.zeros(2)
    fill = lambda a, b: a[1:5].fill_(1)  # noqa: E731  # two of them
    assert len(await audited(checker, fill, a, b, writes=[a[:2], a[4:]])) == 1
    assert await audited(HazardChecker(), fill, a, b, writes=[a[:2], a[4:], a[2:4]]) == []


async def test_columns_of_a_long_table_are_told_apart(checker: HazardChecker) -> None:
    """Too many pieces to name each are compared by their stride."""
    a, b = torch.zeros(2048, 4), torch.zeros(2)
    fill = lambda a, b: a[:, 1:3].fill_(1)  # noqa: E731  # three of them
    assert await audited(checker, fill, a, b, writes=[a[:, 1:3]]) == []
    assert await audited(checker, fill, a, b, writes=[a[:, 0:2], a[:, 2:4]]) == []
    assert len(await audited(checker, fill, a, b, writes=[a[:, 0:2], a[:, 3:4]])) == 1
    assert len(await audited(HazardChecker(), fill, a, b, writes=[a[:2047, 1:3]])) == 1


async def test_written_memory_declared_as_read_is_reported(checker: HazardChecker) -> None:
    """To read is not to write; to write permits to read."""
    a, b = torch.zeros(2), torch.zeros(2)
    assert len(await audited(checker, lambda a, b: a.add_(b), a, b, reads=[a, b])) == 1
    assert await audited(HazardChecker(), lambda a, b: a.add_(b), a, b, reads=[b], writes=[a]) == []


async def test_copy_that_looks_like_a_view_is_a_read(checker: HazardChecker) -> None:
    """``reshape`` may copy, and in inference mode the operator itself does not tell."""
    a, b = torch.zeros(4, 2), torch.zeros(2)

    @torch.inference_mode()
    def reshape(a: Tensor, b: Tensor) -> Tensor:
        return a.t().reshape(8)

    @torch.inference_mode()
    def only_views(a: Tensor, b: Tensor) -> Tensor:
        return a.t()[1].reshape(2, 2).detach()

    assert await audited(checker, only_views, a, b) == []
    assert len(await audited(checker, reshape, a, b)) == 1


async def test_rows_stand_for_their_whole_buffer(checker: HazardChecker) -> None:
    """Which rows an index picks is seen by nobody outside of the operator."""
    a, b = torch.zeros(4, 2), torch.zeros(2)
    row = Access("relay", "tokens", (1,), a)
    pick = lambda a, b: a.index_select(0, torch.tensor([1]))  # noqa: E731  # two of them
    assert await audited(checker, pick, a, b, reads=[row]) == []
    assert len(await audited(checker, pick, a, b)) == 1


@pytest.mark.parametrize("strict", [False, True])
async def test_relay_declares_all_that_it_does(checker: HazardChecker, strict: bool) -> None:
    """The buffers' own launches pass, poison included."""
    audit = AccessAudit(checker)
    with open_device("cpu") as device, checker.watch(device), audit.watch(device):
        relay = RelayBuffer(device, 4, {"tokens": torch.int64}, strict=strict)
        stream = device.stream("forward")
        for _ in range(2):
            relay.publish([1, 2], tokens=torch.tensor([1, 2]), stream=stream)
            await relay.mirror.pull([1], stream=stream)
            await relay.gather([2, 1], stream=stream)
    checker.raise_if_any()
    assert audit.num_operators > 10


async def test_memory_is_looked_up_under_the_lock_of_the_checker(checker: HazardChecker) -> None:
    """Operators run on worker threads while the host's thread adds to the same tables."""
    a, b, unlocked = torch.zeros(2), torch.zeros(2), list[str]()

    class Watched(Memory):
        def known(self, tensor: Tensor) -> bool:
            unlocked.extend(["known"] * (not checker._lock._is_owned()))  # type: ignore[attr-defined]
            return super().known(tensor)

        def name(self, memory: Tensor | Access) -> str:
            unlocked.extend(["name"] * (not checker._lock._is_owned()))  # type: ignore[attr-defined]
            return super().name(memory)

    checker.memory = Watched()
    assert len(await audited(checker, double, a, b)) == 2
    assert unlocked == []
