"""Which model keys and values belong to."""

import ctypes
import hashlib
import json
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from aio_sched.disaggregated.errors import PeerMismatchError
from aio_sched.engine.experts import MixtureTransformer
from aio_sched.engine.model import ByteTransformer

__all__ = ["ModelIdentity", "bytes_of", "identity_of"]


@dataclass(frozen=True)
class ModelIdentity:
    """What must be equal on both sides.

    Attributes:
        config: the sizes of the model, as JSON.
        dtype: of keys and values.
        weights: SHA-256 of the parameters.
    """

    config: str
    dtype: str
    weights: str

    def check(self, other: "ModelIdentity", name: str) -> None:
        """Refuse the rows of another model.

        Args:
            other: what the other side says.
            name: of the other side.

        Raises:
            PeerMismatchError: it differs; says in what.
        """
        ours, theirs = asdict(self), asdict(other)
        for part in (part for part in ours if ours[part] != theirs[part]):
            raise PeerMismatchError(
                f"{name} has another model: its {part} is {theirs[part]} and ours is {ours[part]}; "
                "load the same weights on both sides"
            )


def identity_of(model: ByteTransformer, dtype: torch.dtype = torch.float32) -> ModelIdentity:
    """Say which model this is; blocks, for it reads all parameters on the host.

    Args:
        model: on any device.
        dtype: of the keys and values that it writes.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        host = parameter.detach().cpu().contiguous()
        digest.update(f"{name} {host.dtype} {tuple(host.shape)}".encode())
        digest.update(bytes_of(host))
    config = asdict(model.config)
    if isinstance(model, MixtureTransformer):
        config["mixture"] = asdict(model.mixture)
    return ModelIdentity(
        json.dumps(config, sort_keys=True), str(dtype).removeprefix("torch."), digest.hexdigest()
    )


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous host tensor, which must outlive the view.

    Through ctypes: ``Tensor.numpy`` needs a package that a plain installation does not have.
    """
    assert tensor.device.type == "cpu", "the host reads it"
    assert tensor.is_contiguous(), "the bytes are to be in order"
    size = tensor.numel() * tensor.element_size()
    memory = (ctypes.c_char * size).from_address(tensor.data_ptr()) if size else bytearray()
    return memoryview(memory).cast("B")
