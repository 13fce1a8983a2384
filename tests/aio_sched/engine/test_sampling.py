"""Sampling: the right distribution, and noise that depends on the request alone."""

import pytest
import torch
from torch import Tensor

from aio_sched.engine import sampling
from aio_sched.engine.sampling import sample

VOCAB = 256


def rows(*values: float, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return one number per row."""
    return torch.tensor(values, dtype=dtype)


def logits(num_rows: int, seed: int = 0) -> Tensor:
    """Return random logits ``[num_rows, VOCAB]``."""
    return 3 * torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(seed))


def draw(scores: Tensor, temperature: float, seeds: Tensor, positions: Tensor) -> Tensor:
    """Sample all rows at one temperature."""
    return sample(scores, torch.full((len(scores),), temperature), seeds, positions)


def test_temperature_0_takes_the_largest_logit() -> None:
    """Greedy rows ignore seed and position, also beside rows that are not greedy."""
    scores = logits(8)
    mixed = sample(
        scores, rows(0, 1, 0, 1, 0, 1, 0, 1, dtype=torch.float32), torch.arange(8), torch.arange(8)
    )
    assert torch.equal(mixed[::2], scores.argmax(dim=-1)[::2])
    assert mixed.dtype == torch.int64


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("counted", ["seeds", "positions"])
def test_frequencies_follow_the_softmax(temperature: float, counted: str) -> None:
    """Over many seeds, and over many positions, tokens are as frequent as their probabilities."""
    draws = 40_000
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, 0.5, -3.0, 1.5])
    many, one = torch.arange(draws), torch.full((draws,), 17)
    seeds, positions = (many, one) if counted == "seeds" else (one, many)
    tokens = draw(scores.expand(draws, -1), temperature, seeds, positions)
    expected = (scores / temperature).softmax(dim=-1) * draws
    chi_square = ((tokens.bincount(minlength=8) - expected) ** 2 / expected).sum().item()
    assert chi_square < 24.3  # with 7 degrees of freedom, one seed in a thousand is above


def test_consecutive_tokens_are_independent() -> None:
    """What was drawn at a position says nothing about the next one."""
    draws = 40_000
    scores = torch.zeros(draws, 4)
    tokens = draw(scores, 1.0, torch.full((draws,), 3), torch.arange(draws))
    pairs = (tokens[:-1] * 4 + tokens[1:]).bincount(minlength=16)
    expected = (draws - 1) / 16
    assert ((pairs - expected) ** 2 / expected).sum().item() < 37.7  # 15 degrees, one in a thousand


def test_equal_seed_and_position_give_equal_tokens() -> None:
    """A draw can be repeated, and either of the two changes it."""
    scores = torch.zeros(64, VOCAB)
    seeds, positions = torch.full((64,), 5), torch.arange(64)
    first = draw(scores, 1.0, seeds, positions)
    assert torch.equal(first, draw(scores, 1.0, seeds, positions))
    assert not torch.equal(first, draw(scores, 1.0, seeds + 1, positions))
    assert not torch.equal(first, draw(scores, 1.0, seeds, positions + 1))


def test_seed_and_position_are_not_interchangeable() -> None:
    """Requests with neighbouring seeds do not draw each other's noise at other positions."""
    seeds, positions = rows(1, 2, 3, 0), rows(2, 1, 0, 3)
    noise = sampling.noise_of(seeds, positions, VOCAB)
    assert len({tuple(row) for row in noise.tolist()}) == 4


@pytest.mark.parametrize("num_rows", [1, 4, 8, 16, 33])
@pytest.mark.parametrize("vocab", [VOCAB, 1001])
def test_noise_is_the_same_bits_in_any_row(num_rows: int, vocab: int) -> None:
    """Row and neighbours do not change the noise of a request."""
    alone = sampling.noise_of(rows(11), rows(42), vocab)[0]
    for row in range(num_rows):
        seeds, positions = torch.arange(num_rows) + 100, torch.arange(num_rows) + 7
        seeds[row], positions[row] = 11, 42
        assert torch.equal(sampling.noise_of(seeds, positions, vocab)[row], alone)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_noise_is_finite_for_every_seed(seed: int) -> None:
    """No seed makes a token impossible or certain."""
    noise = sampling.noise_of(torch.full((200,), seed), torch.arange(200), VOCAB)
    assert noise.isfinite().all()
    assert abs(noise.mean().item() - 0.5772) < 0.03  # Euler's constant, the mean of a Gumbel draw


def test_extreme_bits_give_finite_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest and the largest hash lie inside the open interval from 0 to 1."""
    for hashed in (0, -1):
        monkeypatch.setattr(sampling, "_mix", lambda z, hashed=hashed: torch.full_like(z, hashed))
        assert sampling.noise_of(rows(1), rows(1), 4).isfinite().all()


def test_hash_is_splitmix64() -> None:
    """The numbers are those of the published generator for its seed 1234567."""
    counters = 1234567 + torch.arange(1, 6) * sampling.GOLDEN
    assert [z % 2**64 for z in sampling._mix(counters).tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_half_precision_logits_are_accepted() -> None:
    """A runner may hand over logits of its own type."""
    scores = logits(4).half()
    assert torch.equal(draw(scores, 0.0, torch.arange(4), torch.arange(4)), scores.argmax(dim=-1))


def test_sampling_reads_no_value_on_the_host() -> None:
    """It runs on tensors that have no values, so nothing waits for the device."""
    column = torch.empty(4, dtype=torch.int64, device="meta")
    scores = torch.empty(4, VOCAB, device="meta")
    assert sample(scores, column.float(), column, column).shape == (4,)
