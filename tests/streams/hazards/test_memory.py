"""Which accesses ``HazardChecker`` takes for the same memory, and what it forgets."""

import gc

import pytest
import torch

from streams.hazards import Access, HazardChecker
from tests.streams.hazards.launches import kinds, launch
from tests.streams.hazards.lazy_device import LazyDevice


@pytest.fixture
def lazy() -> LazyDevice:
    """A device on which no order comes from timing."""
    return LazyDevice()


def test_views_conflict_where_their_bytes_overlap(lazy: LazyDevice) -> None:
    """A column and a row meet, two columns do not; storage counts, not the first address."""
    table, checker = torch.zeros(4, 4), HazardChecker()
    a, b, c = lazy.stream("a"), lazy.stream("b"), lazy.stream("c")
    with checker.watch(lazy):
        launch(a, 1, "forward", writes=table[:, 1])
        launch(b, 1, "other", writes=table[:, 2])
        assert kinds(checker) == []
        launch(c, 1, "copy", reads=table[2])
    assert [report.earlier and report.earlier.actor for report in checker.reports] == ["a", "b"]


def test_memory_that_is_made_anew_at_an_old_address_is_other_memory(lazy: LazyDevice) -> None:
    """A freed tensor's accesses are forgotten with it, wherever the next one lies."""
    checker = HazardChecker()
    streams = lazy.stream("a"), lazy.stream("b")
    with checker.watch(lazy):
        for number in range(1000):
            stream = streams[number % 2]
            cell = torch.zeros(4)
            launch(stream, number, "forward", writes=cell)
            stream.synchronize()
            del cell
    checker.raise_if_any()
    gc.collect()
    assert len(checker.memory) < 600


def test_access_to_rows_meets_tensor_of_the_same_storage(lazy: LazyDevice) -> None:
    """Rows of a buffer and a view of it are the same bytes."""
    table, checker = torch.zeros(4, 4), HazardChecker()
    with checker.watch(lazy):
        launch(lazy.stream("a"), 1, "forward", writes=Access("relay", "lens", (1, 3), table))
        launch(lazy.stream("b"), 1, "copy", reads=table[3])
        launch(lazy.stream("c"), 1, "copy", reads=table[2])
    (report,) = checker.reports
    assert report.memory == "part of relay.lens: tensor (4) float32"


def test_parts_that_the_host_knows_to_be_done_are_forgotten(lazy: LazyDevice) -> None:
    """A pool that is sliced anew each time costs no more in the end than in the beginning."""
    pool, checker = torch.zeros(100_000), HazardChecker()
    a, b = lazy.stream("a"), lazy.stream("b")
    with checker.watch(lazy):
        for number in range(3000):
            launch(a if number % 2 else b, number, "forward", writes=pool[number : number + 50])
            lazy.synchronize()
        assert checker.memory.num_cells(pool) <= 512
        checker.raise_if_any()


def test_parts_in_use_are_not_forgotten_with_the_others(lazy: LazyDevice) -> None:
    """However many parts were forgotten: what may still run races, rows and slices alike."""
    pool, checker = torch.zeros(10_000, 2), HazardChecker()
    a, b, c = lazy.stream("a"), lazy.stream("b"), lazy.stream("c")
    with checker.watch(lazy):
        launch(a, 0, "forward", writes=pool[:2])
        launch(a, 0, "forward", reads=Access("relay", "lens", (7000,), pool))
        for number in range(2000):
            launch(b, number, "forward", writes=pool[number + 10 : number + 20])
            b.synchronize()
        launch(b, 0, "forward", writes=Access("relay", "lens", (9000,), pool))
        launch(c, 1, "late", reads=pool[1])
        launch(c, 2, "late", writes=Access("relay", "lens", (7000,), pool))
        launch(c, 3, "late", reads=pool[9000:9001])
        assert kinds(checker) == ["RAW", "WAR", "RAW"]
        assert checker.memory.num_cells(pool) < 1000


def test_rows_of_two_layouts_of_one_storage_are_told_apart(lazy: LazyDevice) -> None:
    """Row 1 of four rows, and row 1 of the same bytes as two rows, are other bytes."""
    table, checker = torch.zeros(4, 4), HazardChecker()
    halves = table.view(2, 8)
    with checker.watch(lazy):
        launch(lazy.stream("a"), 1, "forward", writes=Access("relay", "quarter", (1,), table))
        launch(lazy.stream("b"), 1, "copy", writes=Access("relay", "half", (1,), halves))
        assert kinds(checker) == []
        launch(lazy.stream("c"), 1, "copy", reads=Access("relay", "half", (0,), halves))
    assert kinds(checker) == ["RAW"]


def test_columns_of_a_long_table_conflict_where_their_bytes_overlap(lazy: LazyDevice) -> None:
    """As those of a short one do, however many rows there are."""
    table, checker = torch.zeros(2048, 4), HazardChecker()
    with checker.watch(lazy):
        launch(lazy.stream("a"), 1, "forward", writes=table[:, 0:1])
        launch(lazy.stream("b"), 1, "other", writes=table[:, 2:3])
        launch(lazy.stream("c"), 1, "copy", reads=table[5, 3:])
        assert kinds(checker) == []
        launch(lazy.stream("d"), 1, "copy", reads=table[2047, :2])
        launch(lazy.stream("e"), 1, "copy", writes=table[:, 2:])
    found = [(r.kind, r.earlier and r.earlier.actor) for r in checker.reports]
    assert found == [("RAW", "a"), ("WAW", "b"), ("WAR", "c")]


def test_view_in_too_many_pieces_misses_no_overlap(lazy: LazyDevice) -> None:
    """A million pieces are not told apart, but each of them is covered."""
    table, checker = torch.zeros(1030, 2062, dtype=torch.uint8), HazardChecker()
    with checker.watch(lazy):
        launch(lazy.stream("a"), 1, "forward", writes=table[:, :2060:2])
        launch(lazy.stream("b"), 1, "copy", reads=table[500, 1000:1001])
        launch(lazy.stream("c"), 1, "copy", reads=table[1029, 2058:])
    assert kinds(checker) == ["RAW", "RAW"]


@pytest.mark.parametrize("memory", ["x", torch.eye(2).to_sparse()], ids=["text", "sparse"])
def test_what_is_no_memory_is_reported(lazy: LazyDevice, memory: object) -> None:
    """A checker cannot compare what it does not know, and says so; the launch is made."""
    checker = HazardChecker()
    with checker.watch(lazy):
        launch(lazy.stream("a"), 1, "forward", writes=memory)
    (report,) = checker.reports
    assert report.message.startswith("touch declares ")
    assert report.message.endswith("in reads= and writes=")


def test_sparse_tensors_are_described_without_their_values(lazy: LazyDevice) -> None:
    """To show values waits for a GPU, and would make each launch another finding."""
    checker, stream = HazardChecker(), lazy.stream("a")
    with checker.watch(lazy):
        for step in range(3):
            launch(stream, step, "forward", writes=(torch.eye(2) * step).to_sparse())
    (report,) = checker.reports
    assert report.count == 3
    assert "declares a sparse_coo tensor (2, 2) float32" in report.message
