"""Weights files: the shipped one reads the language reference; damaged ones say what is wrong."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from aio_sched.engine.model import ByteTransformer, ModelConfig
from aio_sched.engine.weights import TOPICS, WeightsError, load_model, save_model

TINY = ModelConfig(d_model=16, num_layers=1, num_heads=2, d_hidden=32, max_len=16)

PASSAGE = """\
The "if" statement is used for conditional execution:

   if_stmt ::= "if" assignment_expression ":" suite
               ("elif" assignment_expression ":" suite)*
               ["else" ":" suite]

It selects exactly one of the suites by evaluating the expressions one by one until one is found to
be true; then that suite is executed (and no other part of the "if" statement is executed or
evaluated).
"""


@pytest.fixture
def model() -> ByteTransformer:
    """A tiny model with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ByteTransformer(TINY)


@pytest.fixture
def path(tmp_path: Path, model: ByteTransformer) -> Path:
    """A good weights file of the tiny model."""
    save_model(model, tmp_path / "tiny.safetensors", {"note": "untrained"})
    return tmp_path / "tiny.safetensors"


def save(path: Path, model: ByteTransformer, config: str | None, **other: torch.Tensor) -> None:
    """Write a file that `save_model` would not."""
    tensors = {name: p.detach().half() for name, p in model.named_parameters()} | other
    save_file(tensors, path, None if config is None else {"config": config})


def test_shipped_weights_read_the_language_reference() -> None:
    """They predict a passage that is in it; a broken file or cast would be near 5.5 nats."""
    tokens = torch.tensor([list(PASSAGE.encode())])
    logits = load_model()(tokens)[0]
    assert functional.cross_entropy(logits[:-1], tokens[0, 1:]).item() < 1.0


def test_shipped_file_is_below_4_megabytes() -> None:
    """The distribution stays small."""
    assert TOPICS.stat().st_size < 4_000_000


def test_loaded_model_is_the_saved_one(path: Path, model: ByteTransformer) -> None:
    """Configuration and parameters come back, as float32 of the stored float16, for inference."""
    loaded = load_model(path)
    assert loaded.config == TINY
    assert not loaded.training
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name).half().float())
        assert not parameter.requires_grad


def test_loading_leaves_the_random_generator_alone(path: Path) -> None:
    """A user's seeded program draws the same numbers with our model as without."""
    before = torch.get_rng_state()
    load_model(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_replaces_the_file_as_a_whole(path: Path, model: ByteTransformer) -> None:
    """Nothing but the file is left, and others may read it."""
    save_model(model, path, {})
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o444 == 0o444


def test_missing_file_is_named(tmp_path: Path) -> None:
    """The error says which file, and what to pass instead."""
    missing = tmp_path / "none.safetensors"
    with pytest.raises(WeightsError, match="there is no such file; pass a file written by") as info:
        load_model(missing)
    assert str(missing) in str(info.value)


def test_missing_shipped_file_asks_for_reinstallation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without our own file, the installation is what is broken."""
    monkeypatch.setattr("aio_sched.engine.weights.TOPICS", Path("/nowhere/topics.safetensors"))
    with pytest.raises(WeightsError, match="no such file; reinstall aio-sched"):
        load_model()


def test_directory_cannot_be_read(tmp_path: Path) -> None:
    """What the system says is passed on."""
    with pytest.raises(WeightsError, match="it cannot be read"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        b"\2" + b"\0" * 7 + b"ab",
    ],
    ids=["empty", "short", "git-lfs pointer", "bad header"],
)
def test_other_file_is_no_safetensors_file(tmp_path: Path, content: bytes) -> None:
    """A file of another format is called that."""
    other = tmp_path / "other.safetensors"
    other.write_bytes(content)
    with pytest.raises(WeightsError, match="it is no safetensors file"):
        load_model(other)


@pytest.mark.parametrize("length", [100, 2000, -1])
def test_truncated_file_says_how_much_is_there(path: Path, length: int) -> None:
    """An interrupted download is called that, in the header as in the data."""
    content = path.read_bytes()[:length]
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"it is truncated or damaged \\({len(content)} bytes"):
        load_model(path)


def test_missing_config_says_what_is_there(path: Path, model: ByteTransformer) -> None:
    """The file of another program has no config of ours."""
    save(path, model, None)
    with pytest.raises(WeightsError, match="its metadata has no 'config'"):
        load_model(path)


@pytest.mark.parametrize(
    "config",
    ["{", "[]", '{"d_model": 0}', '{"width": 3}', '{"d_model": "16"}'],
    ids=["no JSON", "no mapping", "bad size", "unknown name", "wrong type"],
)
def test_invalid_config_is_shown(path: Path, model: ByteTransformer, config: str) -> None:
    """What cannot be a configuration is shown with the reason."""
    save(path, model, config)
    with pytest.raises(WeightsError, match=r"its config .* is invalid"):
        load_model(path)


def test_missing_tensor_is_named(path: Path, model: ByteTransformer) -> None:
    """A file for fewer layers than its config lacks tensors."""
    save(path, model, json.dumps(asdict(TINY) | {"num_layers": 2}))
    with pytest.raises(WeightsError, match=r"it lacks the tensors blocks\.1\.attn_norm\.weight, "):
        load_model(path)


def test_surplus_tensor_is_named(path: Path, model: ByteTransformer) -> None:
    """A tensor that would be ignored is a sign of another model."""
    save(path, model, json.dumps(asdict(TINY)), bias=torch.zeros(3))
    with pytest.raises(WeightsError, match="the model has no place for its tensors bias"):
        load_model(path)


def test_wrong_shape_is_named(path: Path, model: ByteTransformer) -> None:
    """Both shapes are in the error."""
    save(path, model, json.dumps(asdict(TINY)), **{"norm.weight": torch.zeros(3)})
    with pytest.raises(WeightsError, match=r"norm\.weight has shape \[3\] instead of \[16\]"):
        load_model(path)
