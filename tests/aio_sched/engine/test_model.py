"""The built-in model: right without a cache as with one, and the same bits in any company."""

import random
from collections.abc import Iterator, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from aio_sched.engine import model as model_module
from aio_sched.engine.kv_cache import KVCache
from aio_sched.engine.model import ByteTransformer, ModelConfig
from aio_sched.engine.weights import load_model

SMALL = ModelConfig(d_model=64, num_layers=2, num_heads=2, d_hidden=128, max_len=96)
NUM_SLOTS = 6
CHUNK = 16

Prompts = Mapping[int, tuple[int, Sequence[int]]]
"""By row of the batch: the slot, and the tokens."""


@pytest.fixture(scope="module")
def model() -> ByteTransformer:
    """A small model with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return ByteTransformer(SMALL).requires_grad_(False)


@pytest.fixture(scope="module")
def shipped() -> ByteTransformer:
    """The model of the demo: whether bits depend on the batch depends on the sizes."""
    return load_model()


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    """Leave no change behind if a test wants more than one thread in each operation."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def text(rng: random.Random, length: int) -> list[int]:
    """Return random tokens without the one that ends a text."""
    return rng.choices(range(1, 256), k=length)


def prefill(
    model: ByteTransformer, cache: KVCache, rows: int, chunk: int, prompts: Prompts
) -> dict[int, Tensor]:
    """Read prompts chunk by chunk in batches of one shape; return the last logits of each row."""
    logits: dict[int, Tensor] = {}
    for start in range(0, max(len(tokens) for _, tokens in prompts.values()), chunk):
        table = torch.zeros(rows, chunk, dtype=torch.int64)
        slots, starts, lengths = torch.zeros(3, rows, dtype=torch.int64)
        now = {row: p for row, p in prompts.items() if start < len(p[1])}
        for row, (slot, tokens) in now.items():
            part = torch.tensor(tokens[start : start + chunk])
            table[row, : len(part)] = part
            slots[row], starts[row], lengths[row] = slot, start, len(part)
        out = model.prefill(table, slots, starts, lengths, cache)
        logits |= {row: out[row] for row in now}
    return logits


def decode(model: ByteTransformer, cache: KVCache, rows: int, prompts: Prompts) -> Tensor:
    """Read the last token of each prompt in one batch; return the logits ``[rows, vocab]``."""
    tokens, slots, positions = torch.zeros(3, rows, dtype=torch.int64)
    for row, (slot, prompt) in prompts.items():
        tokens[row], slots[row], positions[row] = prompt[-1], slot, len(prompt) - 1
    return model.decode(tokens, slots, positions, cache)


@pytest.mark.parametrize("length", [1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 50, 91])
def test_chunked_prefill_and_decode_match_full_forward(model: ByteTransformer, length: int) -> None:
    """Reading a text in pieces gives the logits of reading it at once."""
    tokens = text(random.Random(length), length + 5)
    reference = model(torch.tensor([tokens]))[0]
    cache = KVCache(SMALL, NUM_SLOTS)
    others: Prompts = {0: (1, text(random.Random(0), 33)), 3: (2, text(random.Random(1), 2))}
    logits = prefill(model, cache, 4, CHUNK, {**others, 2: (5, tokens[:length])})
    torch.testing.assert_close(logits[2], reference[length - 1])
    for end in range(length + 1, length + 6):
        out = decode(model, cache, 8, {4: (5, tokens[:end])})
        torch.testing.assert_close(out[4], reference[end - 1])


def test_padding_writes_to_row_0_only(model: ByteTransformer) -> None:
    """A batch writes the positions of its own tokens, and what it pads changes no slot."""
    cache = KVCache(SMALL, NUM_SLOTS)
    cache.keys.normal_(), cache.values.normal_()
    before = cache.keys.clone(), cache.values.clone()
    prefill(model, cache, 4, CHUNK, {1: (3, text(random.Random(0), CHUNK + 2))})
    decode(model, cache, 8, {6: (5, text(random.Random(1), 40))})
    for old, new in zip(before, (cache.keys, cache.values), strict=True):
        changed = (old != new).any(dim=-1)[:, 1:]
        expected = torch.zeros_like(changed)
        expected[:, 3 - 1, :, : CHUNK + 2] = True
        expected[:, 5 - 1, :, 39] = True
        assert torch.equal(changed, expected)


def test_padding_at_the_end_of_the_cache_is_in_bounds(model: ByteTransformer) -> None:
    """A short last chunk may be padded beyond the longest context."""
    cache = KVCache(SMALL, 1, max_len=50)
    tokens = text(random.Random(0), 50)
    logits = prefill(model, cache, 2, CHUNK, {0: (1, tokens)})
    torch.testing.assert_close(logits[0], model(torch.tensor([tokens]))[0, -1])


def test_reused_slot_gives_the_logits_of_a_fresh_one(model: ByteTransformer) -> None:
    """What a longer former owner left in a slot is never seen."""
    used, fresh = KVCache(SMALL, NUM_SLOTS), KVCache(SMALL, NUM_SLOTS)
    prefill(model, used, 4, CHUNK, {0: (2, text(random.Random(0), SMALL.max_len))})
    tokens = text(random.Random(1), 20)
    first, second = (
        prefill(model, cache, 4, CHUNK, {1: (2, tokens[:-1])})[1] for cache in (used, fresh)
    )
    assert torch.equal(first, second)
    first, second = (decode(model, cache, 8, {0: (2, tokens)})[0] for cache in (used, fresh))
    assert torch.equal(first, second)


def crowd(
    rng: random.Random, rows: int, num_slots: int, mine: Sequence[int]
) -> tuple[int, Prompts]:
    """Put a prompt into a random row and slot, among random neighbours and padding rows."""
    row = rng.randrange(rows)
    slots = rng.sample(range(1, num_slots + 1), rows)
    prompts = {
        r: (slots[r], text(rng, rng.randint(1, 150))) for r in range(rows) if rng.random() < 0.8
    }
    return row, {**prompts, row: (slots[row], mine)}


@pytest.mark.parametrize(
    ("threads", "rows", "chunk"),
    [
        (1, 1, 16),
        (1, 1, 64),
        (1, 2, 64),
        (1, 4, 64),
        (1, 4, 100),
        (1, 8, 32),
        (2, 3, 7),
        pytest.param(2, 4, 64, marks=pytest.mark.slow),
    ],
)
def test_prefill_is_the_same_bits_in_any_company(
    shipped: ByteTransformer, threads: int, rows: int, chunk: int
) -> None:
    """At one shape, row, slot, neighbours and former contents do not change a request's logits."""
    torch.set_num_threads(threads)
    rng = random.Random(rows)
    mine = text(rng, 130)
    cache = KVCache(shipped.config, 12, max_len=192)
    alone = prefill(shipped, cache, rows, chunk, {0: (1, mine)})[0]
    for _ in range(4):
        row, prompts = crowd(rng, rows, cache.num_slots, mine)
        assert torch.equal(prefill(shipped, cache, rows, chunk, prompts)[row], alone)


@pytest.mark.parametrize(
    ("threads", "rows"),
    [
        (1, 1),
        (1, 4),
        (1, 8),
        (1, 16),
        (1, 32),
        (2, 8),
        pytest.param(2, 16, marks=pytest.mark.slow),
        pytest.param(3, 5, marks=pytest.mark.slow),
    ],
)
def test_decode_is_the_same_bits_in_any_company(
    shipped: ByteTransformer, threads: int, rows: int
) -> None:
    """At one batch size, row, slot, neighbours and former contents do not change the logits."""
    torch.set_num_threads(threads)
    rng = random.Random(rows)
    mine = text(rng, 130)
    cache = KVCache(shipped.config, rows + 3, max_len=192)
    prefill(shipped, cache, 4, 64, {0: (1, mine)})
    alone = decode(shipped, cache, rows, {0: (1, mine)})[0]
    for _ in range(4):
        row, prompts = crowd(rng, rows, cache.num_slots, mine)
        cache.keys[:, 1:].normal_(), cache.values[:, 1:].normal_()
        prefill(shipped, cache, 4, 64, {2: prompts[row]})
        assert torch.equal(decode(shipped, cache, rows, prompts)[row], alone)


def test_rotation_depends_on_the_distance_only() -> None:
    """A query meets a key as far before it with the same score, wherever the two stand."""
    cos, sin = model_module._rope_table(SMALL)
    query, key = torch.randn(2, SMALL.head_dim, generator=torch.Generator().manual_seed(0))
    queries, keys = (model_module._rotate(x, cos, sin) for x in (query, key))
    torch.testing.assert_close(queries[7:50] @ keys[0], queries[47:90] @ keys[40])
    near, far = queries[10] @ keys[9], queries[10] @ keys[2]
    assert not torch.isclose(near, far)


def test_entry_points_read_no_value_on_the_host(model: ByteTransformer) -> None:
    """They run on tensors that have no values, so nothing waits for the device."""
    without_values = ByteTransformer(SMALL).to("meta")
    cache = KVCache(SMALL, NUM_SLOTS, device="meta")
    tokens = torch.empty(4, CHUNK, dtype=torch.int64, device="meta")
    column = tokens[:, 0]
    prefilled = without_values.prefill(tokens, column, column, column, cache)
    decoded = without_values.decode(column, column, column, cache)
    assert prefilled.shape == decoded.shape == (4, SMALL.vocab)


def test_entry_points_keep_no_graph() -> None:
    """Logits hold no gradient even of a model that is being trained."""
    model, cache = ByteTransformer(SMALL), KVCache(SMALL, NUM_SLOTS)
    assert not decode(model, cache, 2, {0: (1, [7])}).requires_grad
    assert not prefill(model, cache, 2, CHUNK, {0: (1, [7])})[0].requires_grad


@pytest.mark.parametrize("size", [{"num_layers": 0}, {"vocab": -1}, {"d_hidden": 1.5}])
def test_impossible_size_is_refused(size: dict[str, int]) -> None:
    """The error names the size and its value."""
    ((name, value),) = size.items()
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be an int of at least 1"):
        ModelConfig(**size)


def test_width_without_even_heads_is_refused() -> None:
    """Rotary positions turn pairs of numbers, so each head needs an even width."""
    with pytest.raises(ValueError, match="d_model 18 cannot be shared by 6 heads of even width"):
        ModelConfig(d_model=18)


def test_cache_without_slots_is_refused() -> None:
    """A cache needs room for one request."""
    with pytest.raises(ValueError, match="num_slots is 0"):
        KVCache(SMALL, 0)


@pytest.mark.parametrize("max_len", [0, SMALL.max_len + 1])
def test_cache_beyond_the_context_is_refused(max_len: int) -> None:
    """A cache cannot be longer than the model's rotary table, nor empty."""
    with pytest.raises(ValueError, match=f"max_len is {max_len}; this model can have 1 to 96"):
        KVCache(SMALL, 2, max_len=max_len)


def test_cache_says_what_it_is() -> None:
    """The repr has what one asks for in a debugger."""
    assert repr(KVCache(SMALL, 2)) == "<KVCache slots=2 max_len=96 device=cpu>"
