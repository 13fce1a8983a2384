"""Weights of a `ByteTransformer` in one safetensors file, with its configuration inside."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from aio_sched.engine.model import ByteTransformer, ModelConfig
from streams.errors import AioSchedError

__all__ = ["DRAFT", "TOPICS", "WeightsError", "load_draft", "load_model", "save_model"]

TOPICS = Path(__file__).parent / "weights" / "topics.safetensors"
"""The weights that we ship, trained by ``tools/train_topics.py`` on the language reference."""
DRAFT = TOPICS.with_name("topics-draft.safetensors")
"""The weights of a smaller model, trained by the same script to say what that one would."""


class WeightsError(AioSchedError, ValueError):
    """A weights file is missing, damaged, or not one of ours."""


def load_model(path: Path | None = None, device: torch.device | str = "cpu") -> ByteTransformer:
    """Build the model that a weights file describes, ready for inference.

    Blocks on reading the file: call it before the scheduler runs. Leaves torch's random generator
    as it was.

    Args:
        path: A file written by `save_model`; without it, the weights that we ship.
        device: Where the parameters go, as float32 whatever the file holds.

    Raises:
        WeightsError: The file is missing, unreadable, damaged, or fits no `ByteTransformer`.
    """
    path = TOPICS if path is None else Path(path)
    metadata, tensors = _read(path)
    config = _config(path, metadata)
    with torch.random.fork_rng(devices=[]):
        model = ByteTransformer(config)
    _check(path, model, tensors)
    model.load_state_dict(tensors)
    return model.requires_grad_(False).eval().to(device)


def load_draft(path: Path | None = None, device: torch.device | str = "cpu") -> ByteTransformer:
    """Build the small model that drafts for the one of ``load_model``.

    Args:
        path: As for ``load_model``; without it, the weights that we ship.
        device: As for ``load_model``.

    Raises:
        WeightsError: As from ``load_model``.
    """
    return load_model(DRAFT if path is None else path, device)


def save_model(model: ByteTransformer, path: Path, facts: Mapping[str, str]) -> None:
    """Write the parameters as float16, beside them the configuration and ``facts``.

    The file is replaced as a whole: a reader sees the former one or this one.
    """
    tensors = {name: p.detach().half().cpu() for name, p in model.named_parameters()}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".partial")
    save_file(tensors, draft, {**facts, "config": json.dumps(asdict(model.config))})
    draft.chmod(0o644)  # safetensors lets only the owner read, and a package is read by others
    draft.replace(path)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            names: list[str] = file.keys()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        _fail(path, "there is no such file", error)
    except OSError as error:
        _fail(path, f"it cannot be read ({error})", error)
    except SafetensorError as error:
        if path.read_bytes()[8:9] == b"{":  # the header of a safetensors file, after its length
            size = path.stat().st_size
            _fail(path, f"it is truncated or damaged ({size} bytes are there: {error})", error)
        _fail(path, f"it is no safetensors file ({error})", error)


def _config(path: Path, metadata: Mapping[str, str]) -> ModelConfig:
    if "config" not in metadata:
        _fail(path, f"its metadata has no 'config', only {sorted(metadata)}")
    try:
        return ModelConfig(**json.loads(metadata["config"]))
    except (TypeError, ValueError) as error:
        _fail(path, f"its config {metadata['config']} is invalid: {error}", error)


def _check(path: Path, model: ByteTransformer, tensors: Mapping[str, Tensor]) -> None:
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if missing := sorted(expected.keys() - tensors.keys()):
        _fail(path, f"it lacks the tensors {', '.join(missing)}")
    if surplus := sorted(tensors.keys() - expected.keys()):
        _fail(path, f"the model has no place for its tensors {', '.join(surplus)}")
    for name, shape in expected.items():
        if (found := tuple(tensors[name].shape)) != shape:
            _fail(path, f"its tensor {name} has shape {list(found)} instead of {list(shape)}")


def _fail(path: Path, problem: str, cause: BaseException | None = None) -> NoReturn:
    remedy = (
        "reinstall aio-sched, or train it anew with tools/train_topics.py"
        if path in (TOPICS, DRAFT)
        else "pass a file written by tools/train_topics.py, or no path for the weights that we ship"
    )
    raise WeightsError(f"cannot load the weights file {path}: {problem}; {remedy}") from cause
