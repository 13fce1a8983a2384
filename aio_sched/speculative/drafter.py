"""What drafts tokens: the protocol, and a small model that writes them one after another."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from aio_sched.engine.kv_cache import KVCache
from aio_sched.engine.model import ByteTransformer, ModelConfig
from aio_sched.engine.sampling import sample
from aio_sched.engine.table import StepTable
from aio_sched.speculative.errors import DraftModelError
from aio_sched.speculative.verify_inputs import Cells
from buffers.access import Access

__all__ = ["ChainDrafter", "DraftStart", "Drafter", "HiddenDrafter", "choose_next"]


class DraftStart(NamedTuple):
    """What a draft begins with; memory of the step's own.

    Attributes:
        table: the step's.
        lengths: int64 ``[B]``, tokens of each row that are kept already.
        last: int64 ``[B]``, the token behind them.
        cells: where ``last`` and the drafted tokens but the last one are kept.
        draws: whether some row has a temperature above 0.
    """

    table: StepTable
    lengths: Tensor
    last: Tensor
    cells: Cells
    draws: bool


class Drafter(Protocol):
    """Guesses the next tokens of each request.

    ``prefill``, ``draft`` and ``extend`` are torch work for the function of a launch on the
    forward stream; they must not wait for the device. What they guess costs time if it is
    wrong, and never changes a text.

    Attributes:
        reads_shared_cells: False if a draft reads nothing but its ``DraftStart`` and its own
            memory, so that the plan of the verify need not wait for it.
    """

    reads_shared_cells: bool

    def allocate(self, target: ModelConfig, num_slots: int, device: torch.device) -> None:
        """Make its memory, once, before the first step.

        Raises:
            DraftModelError: it cannot draft for the target model.
        """

    def accesses(self, rows: tuple[int, ...]) -> tuple[Access, ...]:
        """Name its memory of some slots, ascending, as a launch declares it."""

    def prefill(self, table: StepTable) -> None:
        """Read the next chunk of some prompts, as the target model does."""

    def draft(self, start: DraftStart, num_tokens: int) -> Tensor:
        """Guess, int64 ``[B, num_tokens]``."""

    def extend(self, start: DraftStart, drafted: Tensor, chosen: Tensor) -> None:
        """Catch up with the target model, behind what it has published.

        Args:
            start: what the draft began with.
            drafted: int64 ``[B, T]``.
            chosen: int64 ``[B, T + 1]``, what the target model would write behind each; the
                text goes on up to and with the first that is not drafted.
        """


@runtime_checkable
class HiddenDrafter(Drafter, Protocol):
    """A drafter that goes on from the target model's own hidden states.

    A drafter with these two methods is given them; no other one pays for it.
    """

    def attach(self, target: ByteTransformer, num_draft: int) -> None:
        """Learn for which model it drafts, once, before ``allocate``.

        Raises:
            DraftModelError: it cannot draft for that model, or not so many tokens.
        """

    def keep_hidden(self, slots: Tensor, hidden: Tensor) -> None:
        """Keep the hidden state behind the last token that is kept of each row.

        Torch work inside launches that declare ``accesses``: with the target model's prefill
        of each chunk, and in front of ``extend``.

        Args:
            slots: int64 ``[B]``; 0 in padding rows.
            hidden: float ``[B, d_model]``, which ``target.unembed`` takes.
        """


class ChainDrafter:
    """A smaller model that writes the drafted tokens one after another.

    It draws with the noise that the target model draws with, so that at any temperature two
    models that agree choose alike.

    Args:
        model: with the target model's vocabulary and at least its context.
    """

    reads_shared_cells = False

    def __init__(self, model: ByteTransformer) -> None:
        self._model = model

    def allocate(self, target: ModelConfig, num_slots: int, device: torch.device) -> None:
        """Make the small model's KV cache; see ``Drafter.allocate``."""
        config = self._model.config
        for name in ("vocab", "max_len"):
            ours, theirs = getattr(config, name), getattr(target, name)
            if ours < theirs or (name == "vocab" and ours > theirs):
                raise DraftModelError(
                    f"the draft model has {name}={ours} and the target model {name}={theirs}; "
                    "draft with a model of the same vocabulary and at least the same context"
                )
        where = self._model.embed.weight.device
        if where.type != device.type:
            raise DraftModelError(
                f"the draft model is on {where} and the target model on {device}; "
                f"move it with draft.to({str(device)!r})"
            )
        self._cache = KVCache(config, num_slots, max_len=target.max_len, device=device)

    def accesses(self, rows: tuple[int, ...]) -> tuple[Access, ...]:
        """Name rows of its KV cache."""
        keys, values = self._cache.accesses(rows)
        return (
            Access("draft", keys.field, rows, keys.memory),
            Access("draft", values.field, rows, values.memory),
        )

    def prefill(self, table: StepTable) -> None:
        """Read the next chunk of some prompts."""
        self._model.prefill(table.tokens, table.slots, table.starts, table.lengths, self._cache)

    def draft(self, start: DraftStart, num_tokens: int) -> Tensor:
        """Write one token after another."""
        tokens = [start.last]
        for number in range(num_tokens):
            logits = self._read(tokens[-1], start.cells, number, start.table)
            tokens.append(choose_next(logits, start, number))
        return torch.stack(tokens[1:], dim=1)

    def extend(self, start: DraftStart, drafted: Tensor, chosen: Tensor) -> None:
        """Read the last drafted token, which the draft has written and not read.

        If all were accepted, the next draft begins behind it; else that writes over it.
        """
        cells = Cells.behind(start.lengths + drafted.shape[1], start.table, 1)
        self._read(drafted[:, -1], Cells(cells), 0, start.table)

    def _read(self, tokens: Tensor, cells: Cells, number: int, table: StepTable) -> Tensor:
        owners, positions = (
            cells.owners[:, number : number + 1],
            cells.positions[:, number : number + 1],
        )
        return self._model.score(tokens[:, None], owners, positions, table.slots, self._cache)[:, 0]


def choose_next(logits: Tensor, start: DraftStart, number: int) -> Tensor:
    """Choose drafted tokens by the noise that the target model draws with.

    Args:
        logits: float ``[B, vocab]``.
        start: what the draft began with.
        number: which of the drafted tokens, from 0.

    Returns:
        int64 ``[B]``.
    """
    if not start.draws:
        return logits.argmax(dim=-1)
    table = start.table
    return sample(logits, table.temperatures, table.seeds, start.lengths + number + 1)
