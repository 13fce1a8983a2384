"""Drafting without a model: what followed the last few tokens before will follow again."""

import torch
from torch import Tensor

from aio_sched.engine.model import ModelConfig
from aio_sched.engine.table import StepTable
from aio_sched.speculative.drafter import DraftStart
from buffers.access import Access

__all__ = ["LookupDrafter"]


class LookupDrafter:
    """Looks the last tokens up in the request's own text, on the device.

    Prompt lookup decoding, https://github.com/apoorvumang/prompt-lookup-decoding: of the
    places before where the same ``ngram`` tokens stand, the latest one is continued. Where
    there is none, the drafted tokens are guesses that will not be accepted.

    Args:
        ngram: tokens that must be the same.

    Raises:
        ValueError: ``ngram`` is below 1.
    """

    reads_shared_cells = False

    def __init__(self, ngram: int = 3) -> None:
        if ngram < 1:
            raise ValueError(f"ngram={ngram} is below 1; look up at least one token")
        self._ngram = ngram

    def allocate(self, target: ModelConfig, num_slots: int, device: torch.device) -> None:
        """Make the memory of all texts: a row for each slot, and one place for what is no text."""
        shape = num_slots + 1, target.max_len + 1
        self._texts = torch.zeros(shape, dtype=torch.int64, device=device)

    def accesses(self, rows: tuple[int, ...]) -> tuple[Access, ...]:
        """Name the texts of some slots."""
        return (Access("draft", "texts", rows, self._texts),)

    def prefill(self, table: StepTable) -> None:
        """Keep the next chunk of some prompts."""
        self._keep(table.slots, table.starts, table.tokens, table.lengths)

    def draft(self, start: DraftStart, num_tokens: int) -> Tensor:
        """Continue the latest place where the last tokens stood before."""
        slots, lengths = start.table.slots, start.lengths
        self._keep(slots, lengths, start.last[:, None], torch.ones_like(lengths))
        texts = self._texts[slots]
        places = torch.arange(texts.shape[1], device=texts.device)
        is_same = places < lengths[:, None]
        for back in range(self._ngram):
            wanted = texts.gather(1, (lengths - back).clamp(0, texts.shape[1] - 1)[:, None])
            is_same = is_same & (texts.roll(back, dims=1) == wanted) & (places >= back)
        latest = torch.where(is_same, places, 0).amax(dim=1)
        offsets = torch.arange(1, num_tokens + 1, device=texts.device)
        follows = torch.minimum(latest[:, None] + offsets, lengths[:, None])
        return texts.gather(1, follows.clamp(max=texts.shape[1] - 1))

    def extend(self, start: DraftStart, drafted: Tensor, chosen: Tensor) -> None:
        """Keep what was chosen; what stands behind the first refused token is written over."""
        lengths = torch.full_like(start.lengths, chosen.shape[1])
        self._keep(start.table.slots, start.lengths + 1, chosen, lengths)

    def _keep(self, slots: Tensor, starts: Tensor, tokens: Tensor, lengths: Tensor) -> None:
        offsets = torch.arange(tokens.shape[1], device=tokens.device)
        last = self._texts.shape[1] - 1
        places = starts[:, None] + offsets
        is_text = (offsets < lengths[:, None]) & (places < last)
        self._texts[slots[:, None], torch.where(is_text, places, last)] = tokens
