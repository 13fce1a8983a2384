"""What the rows of a relay hold: dtype, shape, and the value that marks them unread."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from buffers.errors import DtypeError, ShapeError

__all__ = ["FieldSpec", "as_spec", "check_index", "check_payload"]

# The dtypes for which torch has the indexed copies, reads and fills that rows need.
_POISON: Mapping[torch.dtype, float | None] = {
    torch.bool: None,  # both values mean something
    torch.uint8: 255,
    torch.int8: -1,
    torch.int16: -1,
    torch.int32: -1,
    torch.int64: -1,
    torch.float16: float("nan"),
    torch.bfloat16: float("nan"),
    torch.float32: float("nan"),
    torch.float64: float("nan"),
    torch.complex64: float("nan"),
    torch.complex128: float("nan"),
}


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One field of a relay.

    Attributes:
        dtype: of its rows.
        shape: of one row; () is a number.

    Raises:
        DtypeError: rows cannot have this dtype.
        ShapeError: a dimension is not positive.
    """

    dtype: torch.dtype
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in _POISON:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in _POISON)
            raise DtypeError(
                f"rows cannot have dtype {self.dtype}, torch has no indexed copy for it; "
                f"use one of {names}"
            )
        if any(size < 1 for size in self.shape):
            raise ShapeError(f"row shape {self.shape} has a size below 1")

    @property
    def poison(self) -> float | None:
        """What strict mode fills consumed rows with; None where no value is free."""
        return _POISON[self.dtype]


def as_spec(name: str, spec: FieldSpec | torch.dtype) -> FieldSpec:
    """Read one entry of a schema; a dtype alone means rows of one number.

    Raises:
        DtypeError: it is neither a ``FieldSpec`` nor a dtype that rows can have.
    """
    if isinstance(spec, torch.dtype):
        return FieldSpec(spec)
    if not isinstance(spec, FieldSpec):
        raise DtypeError(
            f"field {name!r} is given as {spec!r}; use a torch dtype or FieldSpec(dtype, shape)"
        )
    return spec


def check_index(index: Tensor, at_least: int = 0) -> None:
    """Check a tensor of row numbers by its metadata; does not look at the device.

    Raises:
        DtypeError: it is not int64.
        ShapeError: it has not one dimension, or fewer than ``at_least`` elements.
    """
    if index.dtype != torch.int64:
        raise DtypeError(f"the index has dtype {index.dtype}; convert it with index.long()")
    if index.dim() != 1 or index.shape[0] < at_least:
        raise ShapeError(
            f"the index has shape {tuple(index.shape)}; give one row number per slot, "
            f"({at_least},) or longer with padding 0"
        )


def check_payload(
    name: str, spec: FieldSpec, payload: Tensor, num_rows: int, where: torch.device
) -> None:
    """Check a payload by its metadata; does not look at the device.

    Args:
        name: names it in errors.
        spec: what its rows must be.
        payload: one row per slot.
        num_rows: how many there must be.
        where: on which device it must be.

    Raises:
        DtypeError: its dtype is not the field's.
        ShapeError: its shape is not ``(num_rows, *spec.shape)``, or it lies elsewhere.
    """
    if payload.dtype != spec.dtype:
        raise DtypeError(
            f"{name} has rows of {spec.dtype} and got {payload.dtype}; "
            f"convert the payload with .to({spec.dtype})"
        )
    if payload.shape != (num_rows, *spec.shape):
        raise ShapeError(
            f"{name} got shape {tuple(payload.shape)} for {num_rows} rows of shape {spec.shape}; "
            f"give {(num_rows, *spec.shape)}, one row per slot in the order of the slots"
        )
    if payload.device != where:
        raise ShapeError(
            f"{name} is on {where} and got a payload on {payload.device}; "
            "upload it first, through a StagingRing"
        )
