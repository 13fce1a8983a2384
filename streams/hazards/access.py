"""What a launch says that it reads and writes: rows of a buffer, by name."""

import dataclasses

from torch import Tensor

__all__ = ["Access"]


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """Rows of one field of a buffer that a launch reads or writes.

    The padding row of a relay is never among them: padded lanes race on it and hurt nobody.

    Attributes:
        buffer: name of the buffer.
        field: name of the field.
        rows: the rows, ascending.
        memory: all rows of the field; two accesses conflict only on the same memory.
    """

    buffer: str
    field: str
    rows: tuple[int, ...]
    memory: Tensor = dataclasses.field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """The field without its rows."""
        return f"{self.buffer}.{self.field}"

    def __str__(self) -> str:
        return f"{self.name}[{', '.join(map(str, self.rows))}]"
