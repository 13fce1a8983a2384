"""The device memory of relay rows, and the torch work on it."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from buffers.access import Access
from buffers.errors import UnknownFieldError
from buffers.fields import FieldSpec, as_spec, check_index, check_payload
from buffers.slots import PADDING
from streams.device import Device
from streams.monitor import host_writes

__all__ = ["RowMemory"]


class RowMemory:
    """One tensor per field, one row per slot, row 0 for padding.

    Rows start as zeros, in strict mode as poison. Blocks until they are filled.

    Attributes:
        name: names the buffer in errors.
        specs: what each field holds.
        tensors: the rows of each field.
    """

    def __init__(
        self,
        device: Device,
        num_rows: int,
        fields: Mapping[str, FieldSpec | torch.dtype],
        *,
        strict: bool,
        name: str,
    ) -> None:
        self.name = name
        self.specs: Mapping[str, FieldSpec] = MappingProxyType(
            {field: as_spec(field, spec) for field, spec in fields.items()}
        )
        self.tensors: dict[str, Tensor] = {}
        self._strict = strict
        # Rows made in inference mode could not be written outside of it.
        with torch.inference_mode(False):
            for field, spec in self.specs.items():
                self.tensors[field] = self._allocate(num_rows, spec, device.torch_device)
        if device.torch_device.type != "cpu":
            # RAW: our streams do not wait for torch's current stream, which fills the rows.
            torch.accelerator.current_stream(device.torch_device).synchronize()
        if device.monitors:
            self._tell_of_fill(device, range(num_rows))

    def gather_rows(self, index: Tensor, fields: Iterable[str], *, keep: bool) -> dict[str, Tensor]:
        """Read rows on the current stream, and poison them if strict mode consumes them."""
        check_index(index)
        return {field: self._gather(field, index, keep) for field in self.known(fields)}

    def stash_rows(self, index: Tensor, payload: Mapping[str, Tensor]) -> None:
        """Write rows on the current stream."""
        check_index(index)
        for field in self.known(self.named(payload)):
            self.check_payload(field, payload[field], index.shape[0])
            # Detached, or the rows would keep the graph of every step alive.
            self.tensors[field].index_copy_(0, index, payload[field].detach())

    def known(self, fields: Iterable[str]) -> tuple[str, ...]:
        """Return the fields, or all if none is named.

        Raises:
            UnknownFieldError: there is no such field.
        """
        names = tuple(fields) or tuple(self.specs)
        for name in names:
            if name not in self.specs:
                raise UnknownFieldError(
                    f"relay {self.name!r} has no field {name!r}; it has {', '.join(self.specs)}"
                )
        return names

    def named(self, fields: Iterable[str]) -> Sequence[str]:
        """Return the fields that a write names.

        Raises:
            UnknownFieldError: it names none.
        """
        names = tuple(fields)
        if not names:
            raise UnknownFieldError(
                f"no field of relay {self.name!r} to write is named; name at least one of "
                f"{', '.join(self.specs)}"
            )
        return names

    def check_payload(self, field: str, payload: Tensor, num_rows: int) -> None:
        """Check a payload by its metadata; see ``fields.check_payload``."""
        where = self.tensors[field].device
        check_payload(f"{self.name}.{field}", self.specs[field], payload, num_rows, where)

    def _gather(self, field: str, index: Tensor, keep: bool) -> Tensor:
        rows, poison = self.tensors[field], self.specs[field].poison
        values = rows.index_select(0, index)
        if self._strict and not keep and poison is not None:
            rows.index_fill_(0, index, poison)
            rows[PADDING].zero_()  # padded lanes gather it again and again
        return values

    def _tell_of_fill(self, device: Device, rows: Iterable[int]) -> None:
        for field, memory in self.tensors.items():
            host_writes(device, Access(self.name, field, tuple(rows), memory))

    def _allocate(self, num_rows: int, spec: FieldSpec, where: torch.device) -> Tensor:
        rows = torch.zeros((num_rows, *spec.shape), dtype=spec.dtype, device=where)
        if self._strict and spec.poison is not None:
            rows[PADDING + 1 :].fill_(spec.poison)
        return rows
