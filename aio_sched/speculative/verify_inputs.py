"""The memory that the draft and the verify of a step share."""

import torch
from torch import Tensor

from aio_sched.engine.model import ModelConfig, future_of
from aio_sched.engine.sampling import noise_of
from aio_sched.engine.table import StepTable
from buffers.access import Access

__all__ = ["Cells", "VerifyInputs"]


class Cells:
    """Where the tokens of a step are kept: a slot and a position for each.

    Args:
        memory: int64 ``[2, B, T]``.

    Attributes:
        owners: int64 ``[B, T]``; 0 where no token is kept.
        positions: int64 ``[B, T]``; 0 where the owner is 0.
    """

    def __init__(self, memory: Tensor) -> None:
        self.owners, self.positions = memory.unbind(0)

    @staticmethod
    def behind(lengths: Tensor, table: StepTable, num_tokens: int) -> Tensor:
        """Return the next cells of each row, int64 ``[2, B, num_tokens]``.

        Cells at and beyond the row's end are the padding row's: what is drafted there
        is never asked for, and may lie beyond the cache.

        Args:
            lengths: int64 ``[B]``, tokens of each row that are kept already.
            table: says in which slot, and where each row's text ends.
            num_tokens: cells for each row.
        """
        offsets = torch.arange(num_tokens, device=lengths.device)
        positions = lengths[:, None] + offsets
        is_real = positions < (table.starts + table.lengths)[:, None]
        owners = torch.where(is_real, table.slots[:, None], 0)
        return torch.stack((owners, torch.where(is_real, positions, 0)))


class VerifyInputs:
    """What the target model reads in a verify, at fixed addresses, as a captured graph needs it.

    The draft claims its cells here too, and reads them until the plan of the same step
    rewrites them. All methods are torch work for the function of a launch.

    Args:
        config: the target model's.
        num_rows: rows of a verify.
        num_tokens: tokens of each: the drafted ones, and the one in front of them.
        device: where it lies.

    Attributes:
        cells: int64 ``[2, num_rows, num_tokens]``, see ``Cells``.
        tokens: int64 ``[num_rows, num_tokens]``.
        is_future: bool ``[num_rows, 1, num_tokens, max_len]``.
        noise: float32 ``[num_rows, num_tokens, vocab]``; holds only in a step that draws.
    """

    def __init__(
        self, config: ModelConfig, num_rows: int, num_tokens: int, device: torch.device
    ) -> None:
        shape = num_rows, num_tokens
        self.cells = torch.zeros((2, *shape), dtype=torch.int64, device=device)
        self.tokens = torch.zeros(shape, dtype=torch.int64, device=device)
        self.is_future = torch.zeros(
            (num_rows, 1, num_tokens, config.max_len), dtype=torch.bool, device=device
        )
        self.noise = torch.zeros((*shape, config.vocab), device=device)

    def accesses(self, *names: str) -> tuple[Access, ...]:
        """Name some of the attributes, as a launch declares them."""
        every = {name: getattr(self, name) for name in names}
        return tuple(
            Access("verify", name, tuple(range(memory.shape[0])), memory)
            for name, memory in every.items()
        )

    def claim(self, lengths: Tensor, table: StepTable) -> None:
        """Claim the cells that a draft writes: one less than the verify will have."""
        drafted = self.cells[:, :, :-1]
        drafted.copy_(Cells.behind(lengths, table, drafted.shape[2]))

    def claimed(self) -> Cells:
        """Return a copy of the claimed cells, which the plan will write over."""
        return Cells(self.cells[:, :, :-1].clone())

    def plan(self, lengths: Tensor, table: StepTable, *, draws: bool) -> None:
        """Make all that a verify needs and that does not depend on what is drafted.

        Args:
            lengths: int64 ``[B]``, tokens of each row that are kept already.
            table: the step's.
            draws: whether some row has a temperature above 0.
        """
        rows, num_tokens = self.tokens.shape
        self.cells.copy_(Cells.behind(lengths, table, num_tokens))
        self.is_future.copy_(future_of(self.cells[1], self.is_future.shape[-1]))
        if draws:
            # The token after each; not the cells, of which those beyond the end are all 0.
            places = lengths[:, None] + torch.arange(1, num_tokens + 1, device=lengths.device)
            seeds = table.seeds.repeat_interleave(num_tokens)
            noise = noise_of(seeds, places.flatten(), self.noise.shape[-1])
            self.noise.copy_(noise.view(rows, num_tokens, -1))

    def refill(self, last: Tensor, drafted: Tensor) -> None:
        """Put in what does depend on the draft: the tokens.

        Args:
            last: int64 ``[B]``, the token in front of the drafted ones.
            drafted: int64 ``[B, num_tokens - 1]``.
        """
        self.tokens[:, 0] = last
        self.tokens[:, 1:] = drafted
