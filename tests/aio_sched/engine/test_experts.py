"""The mixture of experts that is made of the built-in model's weights."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from aio_sched.engine import experts
from aio_sched.engine.experts import (
    EXPERTS,
    MixtureConfig,
    MixtureTransformer,
    divided,
    load_mixture,
)
from aio_sched.engine.kv_cache import KVCache
from aio_sched.engine.weights import WeightsError
from buffers.capture import CaptureCache
from streams.device import open_device
from tests.aio_sched.engine.tiny import TINY, rigged
from tests.aio_sched.engine.tiny_experts import MIXTURE, rigged_mixture, scores_of

TEXT = b"The with statement is used to wrap the execution of a block with methods defined by a\n"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model is slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def division(mixture: MixtureConfig) -> dict[str, Tensor]:
    """Divide the tiny model's neurons backwards, with random routers."""
    draw = torch.Generator().manual_seed(5)
    shape = (TINY.num_layers, mixture.num_experts)
    return {
        "order": torch.arange(TINY.d_hidden).flip(0).repeat(TINY.num_layers, 1),
        "scores": torch.randn((*shape, TINY.d_model), generator=draw),
        "bias": torch.randn(shape, generator=draw),
    }


def test_all_experts_together_are_the_dense_model() -> None:
    """The neurons are divided, none is lost or doubled."""
    dense = rigged()
    mixture = MixtureConfig(num_experts=4, top_k=4, d_shared=8)
    tokens = torch.randint(1, 11, (2, 20), generator=torch.Generator().manual_seed(0))
    logits = divided(dense, mixture, division(mixture))(tokens)
    torch.testing.assert_close(logits, dense(tokens))


def test_only_chosen_experts_and_the_shared_one_add_anything() -> None:
    """Each layer multiplies the other experts' neurons by zero."""
    model = rigged_mixture()
    chosen = torch.tensor([[[2, 0], [1, 3]]])
    hidden = torch.arange(1.0, 1 + 2 * TINY.d_hidden).view(1, 2, TINY.d_hidden)
    gated = model._gated(hidden, chosen)
    width = (TINY.d_hidden - MIXTURE.d_shared) // MIXTURE.num_experts
    for at, alive in enumerate(({0, 2}, {1, 3})):
        torch.testing.assert_close(gated[0, at, : MIXTURE.d_shared], hidden[0, at, :8])
        for expert in range(MIXTURE.num_experts):
            part = slice(8 + expert * width, 8 + (expert + 1) * width)
            is_kept = torch.equal(gated[0, at, part], hidden[0, at, part])
            assert is_kept == (expert in alive)
            assert is_kept or not gated[0, at, part].any()


def test_router_decides_who_works() -> None:
    """With other scores the same neurons give other logits."""
    dense, tokens = rigged(), torch.tensor([[1, 2, 3, 4]])
    parts = division(MIXTURE)
    one = divided(dense, MIXTURE, parts)(tokens)
    other = divided(dense, MIXTURE, parts | {"bias": parts["bias"].flip(1) * 5})(tokens)
    assert not torch.allclose(one, other)


def test_row_has_the_same_bits_whatever_its_neighbours_are() -> None:
    """In another row and slot, among other texts, as two schedules would have it."""
    model = rigged_mixture()

    def logits(order: list[int]) -> Tensor:
        cache = KVCache(TINY, 3)
        texts = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 1, 2]])[order]
        slots = torch.tensor([3, 1, 2])
        model.prefill(texts, slots, torch.zeros(3).long(), torch.full((3,), 4), cache)
        out = model.decode(texts[:, 0], slots, torch.full((3,), 4), cache)
        return out[order.index(0)]

    assert torch.equal(logits([0, 1, 2]), logits([2, 1, 0]))
    assert torch.equal(logits([0, 1, 2]), logits([1, 0, 1]))


def test_capture_reads_no_value_on_the_host() -> None:
    """Neither the routing nor what is written of it: on tensors without values it runs the same."""
    with open_device("cpu") as device:
        capture = CaptureCache(
            device, rigged_mixture().capture_shape, max_rows=16, num_slots=4, max_len=8
        )
        for field, memory in capture._memory.items():
            capture._memory[field] = memory.to("meta")
        model = rigged_mixture().to("meta").capturing(capture)
        cache = KVCache(TINY, 4, device="meta")
        tokens = torch.empty(4, 4, dtype=torch.int64, device="meta")
        column = tokens[:, 0]
        assert model.prefill(tokens, column, column, column, cache).shape == (4, TINY.vocab)
        assert model.decode(column, column, column, cache).shape == (4, TINY.vocab)


@pytest.mark.parametrize(
    "sizes",
    [{"top_k": 0}, {"top_k": 9}, {"num_experts": 0}, {"num_experts": 2**15}, {"d_shared": -1}],
)
def test_impossible_division_is_refused(sizes: dict[str, int]) -> None:
    """More experts chosen than there are, say."""
    with pytest.raises(ValueError, match=r"is impossible; give 1 <= top_k <= num_experts < 32768"):
        MixtureConfig(**sizes)


@pytest.mark.parametrize("d_shared", [9, 32, 40])
def test_neurons_that_cannot_be_shared_out_are_refused(d_shared: int) -> None:
    """All experts have the same size, and some."""
    mixture = dataclasses.replace(MIXTURE, d_shared=d_shared)
    with pytest.raises(ValueError, match=f"32 hidden neurons less {d_shared} shared ones cannot"):
        MixtureTransformer(TINY, mixture)


# What we ship -------------------------------------------------------------------


def test_shipped_mixture_knows_the_text_almost_as_well_as_the_dense_model() -> None:
    """Three of eight experts cost a little, not the language."""
    with torch.no_grad():
        tokens = torch.tensor([list(TEXT)])
        loss = functional.cross_entropy(load_mixture()(tokens)[0, :-1], tokens[0, 1:])
    assert float(loss) < 1.2


def test_shipped_mixture_uses_all_experts() -> None:
    """On a few lines each layer has chosen at least half of its experts."""
    model = load_mixture()
    chosen = scores_of(model, TEXT).topk(model.mixture.top_k).indices
    assert chosen.shape == (len(TEXT), 4, 3)
    assert min(len(set(chosen[:, layer].flatten().tolist())) for layer in range(4)) >= 4


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the division be read from a file of the test's."""
    path = tmp_path / "experts.safetensors"
    monkeypatch.setattr(experts, "EXPERTS", path)
    return path


def test_missing_file_is_said(elsewhere: Path) -> None:
    """With its path, and how to get another."""
    with pytest.raises(WeightsError, match=r"experts\.safetensors: it cannot be read .*anew with"):
        load_mixture()


def test_division_of_other_weights_is_refused(elsewhere: Path) -> None:
    """Its neurons would be somebody else's."""
    save_file(load_file(EXPERTS), elsewhere, {"dense_sha256": "of others"})
    with pytest.raises(WeightsError, match="it divides other weights than those in"):
        load_mixture()


def test_damaged_division_is_refused(elsewhere: Path) -> None:
    """A tensor of another shape, one that is missing, or facts that are none."""
    facts = experts._read(EXPERTS)[0]
    tensors = load_file(EXPERTS)
    save_file(tensors | {"bias": tensors["bias"][:, :3].contiguous()}, elsewhere, facts)
    with pytest.raises(WeightsError, match="it fits no MixtureTransformer"):
        load_mixture()
    save_file({"order": tensors["order"]}, elsewhere, facts)
    with pytest.raises(WeightsError, match="it fits no MixtureTransformer: 'scores'"):
        load_mixture()
    save_file(tensors, elsewhere, facts | {"mixture": '{"top_k": 0}'})
    with pytest.raises(WeightsError, match=r"it fits no MixtureTransformer.* is impossible"):
        load_mixture()
