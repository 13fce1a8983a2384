"""Weights of a `ByteTransformer` in one safetensors file, with its configuration inside."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from aio_sched.engine.model import ByteTransformer, ModelConfig
from streams.errors import AioSchedError

__all__ = [
    "DRAFT",
    "HEADS",
    "TOPICS",
    "WeightsError",
    "check_tensors",
    "load_draft",
    "load_model",
    "read_tensors",
    "refuse",
    "save_model",
    "save_tensors",
]

TOPICS = Path(__file__).parent / "weights" / "topics.safetensors"
"""The weights that we ship, trained by ``tools/train_topics.py`` on the language reference."""
DRAFT = TOPICS.with_name("topics-draft.safetensors")
"""The weights of a smaller model, trained by the same script to say what that one would."""
HEADS = TOPICS.with_name("topics-heads.safetensors")
"""The weights of draft heads for the first one, trained by ``tools/train_heads.py``."""

_SCRIPTS = "tools/train_topics.py (draft heads: tools/train_heads.py)"


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
    metadata, tensors = read_tensors(path)
    config = _config(path, metadata)
    with torch.random.fork_rng(devices=[]):
        model = ByteTransformer(config)
    check_tensors(path, model, tensors)
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
    """Write the parameters as float16, beside them the configuration and ``facts``."""
    save_tensors(model, asdict(model.config), path, facts)


def save_tensors(
    model: nn.Module, config: Mapping[str, object], path: Path, facts: Mapping[str, str]
) -> None:
    """Write parameters as float16, beside them a configuration and ``facts``.

    The file is replaced as a whole: a reader sees the former one or this one.
    """
    tensors = {name: p.detach().half().cpu() for name, p in model.named_parameters()}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".partial")
    save_file(tensors, draft, {**facts, "config": json.dumps(config)})
    draft.chmod(0o644)  # safetensors lets only the owner read, and a package is read by others
    draft.replace(path)


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a safetensors file.

    Raises:
        WeightsError: The file is missing, unreadable or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names: list[str] = file.keys()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        refuse(path, "there is no such file", error)
    except OSError as error:
        refuse(path, f"it cannot be read ({error})", error)
    except SafetensorError as error:
        if path.read_bytes()[8:9] == b"{":  # the header of a safetensors file, after its length
            size = path.stat().st_size
            refuse(path, f"it is truncated or damaged ({size} bytes are there: {error})", error)
        refuse(path, f"it is no safetensors file ({error})", error)


def _config(path: Path, metadata: Mapping[str, str]) -> ModelConfig:
    if "config" not in metadata:
        refuse(path, f"its metadata has no 'config', only {sorted(metadata)}")
    try:
        return ModelConfig(**json.loads(metadata["config"]))
    except (TypeError, ValueError) as error:
        refuse(path, f"its config {metadata['config']} is invalid: {error}", error)


def check_tensors(path: Path, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Check that the tensors of a file are a model's parameters.

    Raises:
        WeightsError: A tensor is missing, has no place, or has another shape.
    """
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if missing := sorted(expected.keys() - tensors.keys()):
        refuse(path, f"it lacks the tensors {', '.join(missing)}")
    if surplus := sorted(tensors.keys() - expected.keys()):
        refuse(path, f"the model has no place for its tensors {', '.join(surplus)}")
    for name, shape in expected.items():
        if (found := tuple(tensors[name].shape)) != shape:
            refuse(path, f"its tensor {name} has shape {list(found)} instead of {list(shape)}")


def refuse(path: Path, problem: str, cause: BaseException | None = None) -> NoReturn:
    """Raise a ``WeightsError`` that says what to do about a file."""
    remedy = (
        f"reinstall aio-sched, or train it anew with {_SCRIPTS}"
        if path in (TOPICS, DRAFT, HEADS)
        else f"pass a file written by {_SCRIPTS}, or no path for the weights that we ship"
    )
    raise WeightsError(f"cannot load the weights file {path}: {problem}; {remedy}") from cause
