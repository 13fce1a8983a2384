"""Reads happen inside a launch, writes at its end: races corrupt, fenced programs are exact."""

import random
from collections import Counter
from typing import NamedTuple

import pytest
import torch

from streams.device import open_device
from streams.event import Event
from streams.simulated import SimProfile
from streams.simulated.sampling import Sample, run_sampled, sample_of
from tests.streams.simulated.tools import FIXED, add, fill, nothing

LONG_READER = SimProfile("long reader", forward_us=(10, 10), other_us=(10, 10), copy_us=(100, 100))


class Rows(NamedTuple):
    """Rows of a buffer, as a declared access."""

    memory: torch.Tensor
    rows: tuple[int, ...]


def host_copy(*cells: torch.Tensor) -> list[torch.Tensor]:
    """Copy ``cells``; takes as long as copies take, by its name."""
    return [cell.clone() for cell in cells]


def test_read_that_overlaps_a_write_sees_either_value() -> None:
    """Without a fence a reader may see the old or the new value, as the seed decides."""
    seen: Counter[float] = Counter()
    for seed in range(60):
        with open_device("sim", seed=seed, profile=LONG_READER) as device:
            cell = torch.zeros(1)
            copied = device.stream("reader").launch(host_copy, cell, reads=[cell])
            writer = device.stream("writer")
            for _ in range(5):
                writer.launch(nothing)
            writer.launch(fill, cell, 1.0, writes=[cell])
            device.synchronize()
            seen[copied.result()[0].item()] += 1
            assert cell.item() == 1.0
    assert set(seen) == {0.0, 1.0}
    assert min(seen.values()) > 5


def test_two_reads_of_one_launch_have_moments_of_their_own() -> None:
    """A launch may see one cell before a write and another one after it."""
    seen = set()
    for seed in range(60):
        with open_device("sim", seed=seed, profile=LONG_READER) as device:
            one, two = torch.zeros(1), torch.zeros(1)
            copied = device.stream("reader").launch(host_copy, one, two, reads=[one, two])
            writer = device.stream("writer")
            for _ in range(4):
                writer.launch(nothing)
            writer.launch(lambda: (one.fill_(1), two.fill_(1)))  # noqa: B023  # runs below
            device.synchronize()
            seen.add(tuple(int(cell) for cell in copied.result()))
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_undeclared_read_happens_at_the_end() -> None:
    """What a function reads without saying so, it sees as it is when it ends."""
    with open_device("sim", profile=LONG_READER) as device:
        cell = torch.zeros(1)
        copied = device.stream("reader").launch(host_copy, cell)
        device.stream("writer").launch(fill, cell, 1.0, writes=[cell])
        device.synchronize()
        assert copied.result()[0].item() == 1.0


def test_writes_land_at_the_end() -> None:
    """Until a launch has ended nobody can see anything of what it writes."""
    with open_device("sim", profile=FIXED) as device:
        stream, cell = device.stream("s"), torch.zeros(1)
        filled = stream.launch(fill, cell, 1.0, writes=[cell])
        while not filled.query():
            assert cell.item() == 0.0
        assert cell.item() == 1.0


def test_elements_that_a_launch_only_read_keep_what_others_wrote() -> None:
    """A launch that reads a row and changes one element does not undo a neighbour's write."""
    for seed in range(20):
        with open_device("sim", seed=seed) as device:
            row = torch.zeros(4)
            for number in range(4):
                device.stream(f"s{number}").launch(fill, row[number], number + 1.0, reads=[row])
            device.synchronize()
            assert row.tolist() == [1, 2, 3, 4]


def test_read_and_written_back_without_a_fence_loses_updates() -> None:
    """The classic lost update: two streams add to one cell, and one addition may vanish."""
    totals = set()
    for seed in range(30):
        with open_device("sim", seed=seed) as device:
            cell = torch.zeros(1)
            for name in ("one", "two"):
                device.stream(name).launch(add, cell, 1.0, reads=[cell], writes=[cell])
            device.synchronize()
            totals.add(cell.item())
    assert totals == {1.0, 2.0}


@pytest.mark.parametrize("profile", ["friendly", "random", "rocm"])
def test_fenced_programs_are_exact(profile: str) -> None:
    """Random programs with every conflict fenced compute what a plain loop computes."""
    for seed in range(40):
        dice = random.Random(seed)
        steps = [
            (dice.randrange(3), dice.randrange(4), dice.randrange(4), dice.randint(-3, 3))
            for _ in range(40)
        ]
        expected = torch.ones(4, 3)
        for _, source, target, factor in steps:
            expected[target] += factor * expected[source]
        actual = torch.ones(4, 3)
        with open_device("sim", seed=seed, profile=profile) as device:
            streams = [device.stream(f"s{number}") for number in range(3)]
            last: list[list[Event]] = [[] for _ in range(4)]
            for number, source, target, factor in steps:
                stream = streams[number]
                for event in last[source] + last[target]:
                    stream.wait_event(event)
                read, write = actual[source], Rows(actual, (target,))
                stream.launch(
                    lambda a=actual[source], b=actual[target], f=factor: b.add_(f * a),
                    reads=[read, write],
                    writes=[write],
                )
                done = stream.record()
                for row in {source, target}:
                    last[row] = [e for e in last[row] if e.stream is not stream] + [done]
            device.synchronize()
        assert torch.equal(actual, expected)


def sampled(memory: torch.Tensor, *views: torch.Tensor) -> list[Sample]:
    """Sample ``views`` of ``memory``, and then change everything."""
    samples = [sample for view in views if (sample := sample_of(view)) is not None]
    assert len(samples) == len(views)
    for sample in samples:
        sample.take()
    with torch.inference_mode():
        memory.data.fill_(9)
    return samples


def test_overlapping_views_are_placed_and_merged() -> None:
    """Views of one storage may overlap: a change through either lands, all else is current."""
    memory = torch.arange(6.0)
    whole, tail = memory[:], memory[2:]
    samples = sampled(memory, whole, tail)
    seen: list[list[float]] = []

    def change() -> None:
        seen.append(memory.tolist())
        tail[0] = 100.0
        memory[5] = 200.0

    run_sampled(samples, change)
    assert seen == [[0, 1, 2, 3, 4, 5]]
    assert memory.tolist() == [9, 9, 100, 9, 9, 200]
    assert samples == []


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.bfloat16, torch.float64, torch.int32, torch.complex128],
)
def test_every_dtype_can_be_sampled(dtype: torch.dtype) -> None:
    """What is compared are bits, so any strided tensor will do, a transposed one too."""
    memory = torch.zeros(2, 3, dtype=dtype).T
    samples = sampled(memory, memory)

    def change() -> None:
        assert not memory.any()
        memory[0, 1] = 1

    run_sampled(samples, change)
    expected = torch.zeros(3, 2, dtype=dtype).fill_(9)
    expected[0, 1] = 1
    assert torch.equal(memory, expected)


def test_nan_that_was_only_read_is_no_change() -> None:
    """NaN differs from itself, but not in its bits."""
    memory = torch.full((2,), float("nan"))
    samples = sampled(memory, memory)
    run_sampled(samples, nothing)
    assert memory.tolist() == [9, 9]


def test_expanded_and_conjugated_views_can_be_sampled() -> None:
    """Elements that a view names several times are there once."""
    memory = torch.zeros(3, 1)
    run_sampled(sampled(memory, memory.expand(3, 4)), lambda: memory[1].fill_(5))
    assert memory.flatten().tolist() == [9, 5, 9]
    numbers = torch.zeros(2, dtype=torch.complex64)
    run_sampled(sampled(numbers, numbers.conj()), lambda: numbers[1].fill_(2j))
    assert numbers.tolist() == [9, 2j]


def test_rows_of_a_buffer_can_be_sampled() -> None:
    """Of an access with rows only those are swapped."""
    memory = torch.zeros(3)
    sample = sample_of(Rows(memory, (0, 2)))
    assert sample is not None
    sample.take()
    memory.fill_(9)
    seen: list[list[float]] = []
    run_sampled([sample], lambda: seen.append(memory.tolist()))
    assert seen == [[0, 9, 0]]
    assert memory.tolist() == [9, 9, 9]


def test_parameters_and_inference_tensors_can_be_sampled() -> None:
    """A swap neither needs gradients nor counts as a write for what autograd saved."""
    weight = torch.nn.Parameter(torch.ones(2))
    loss = (weight * weight).sum()
    run_sampled(sampled(weight.data.clone(), weight), nothing)
    loss.backward()  # type: ignore[no-untyped-call]  # torch's, bare
    assert weight.grad is not None
    assert weight.grad.tolist() == [2, 2]
    with torch.inference_mode():
        frozen = torch.zeros(2)
    run_sampled(sampled(frozen, frozen), nothing)
    assert frozen.tolist() == [9, 9]


def test_failed_function_leaves_what_it_wrote_and_no_sample() -> None:
    """A function that raises half-way has written half; what it had read is given back."""
    memory = torch.zeros(3)
    samples = sampled(memory, memory)

    def fail() -> None:
        memory[0] = 5
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # the test's own
        run_sampled(samples, fail)
    assert memory.tolist() == [5, 9, 9]


@pytest.mark.parametrize(
    "what",
    [None, "name", torch.empty(0), torch.zeros(2, 2).to_sparse(), torch.empty(2, device="meta")],
)
def test_what_has_no_memory_is_not_sampled(what: object) -> None:
    """Declared reads may be anything; what cannot be copied is read at the end."""
    assert sample_of(what) is None
