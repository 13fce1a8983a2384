"""Draft heads for the tiny model, and one that remembers what it was given."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from aio_sched.speculative.drafter import DraftStart
from aio_sched.speculative.heads import DraftHeads, HeadsConfig, HeadsDrafter
from tests.aio_sched.engine.tiny import LETTERS, TINY, rigged

__all__ = ["Begun", "ListeningHeads", "tiny_heads"]


@cache
def tiny_heads() -> DraftHeads:
    """Make heads that are right about half of the time; all have the same weights.

    Trained for a second on texts that the tiny model draws.
    """
    sizes = HeadsConfig(d_model=TINY.d_model, vocab=TINY.vocab, num_layers=4, d_hidden=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        heads = DraftHeads(sizes)
        _train(heads)
    return heads.requires_grad_(False)


def _train(heads: DraftHeads) -> None:
    model, num_layers = rigged(), heads.config.num_layers
    texts = torch.randint(1, len(LETTERS) + 1, (24, 20))
    for place in range(6, texts.shape[1]):
        texts[:, place] = model(texts[:, :place])[:, -1, : len(LETTERS) + 1].argmax(dim=-1)
    states, said = model.hidden(texts), model(texts).argmax(dim=-1)
    optimizer = torch.optim.Adam(heads.parameters(), 1e-2)
    for _ in range(60):
        hidden, losses = states[:, :-num_layers], []
        for layer in range(num_layers):
            ahead = slice(layer + 1, layer + 1 + hidden.shape[1])
            hidden = heads(layer, hidden, model.embed(texts[:, ahead]))
            logits = model.unembed(hidden).flatten(0, 1)
            losses.append(torch.nn.functional.cross_entropy(logits, said[:, ahead].flatten()))
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]  # torch annotates none
        optimizer.step()


class Begun(NamedTuple):
    """What one row of a draft began with.

    Attributes:
        slot: whose it is.
        length: tokens that are kept.
        last: the token behind them.
        hidden: float ``[d_model]``.
    """

    slot: int
    length: int
    last: int
    hidden: Tensor


class ListeningHeads(HeadsDrafter):
    """Remembers what each draft began with."""

    def __init__(self) -> None:
        super().__init__(tiny_heads())
        self.begun: list[Begun] = []

    def draft(self, start: DraftStart, num_tokens: int) -> Tensor:
        """Note it, and draft."""
        columns = start.table.slots.tolist(), start.lengths.tolist(), start.last.tolist()
        hidden = self._hidden[start.table.slots]
        rows = zip(*columns, hidden, strict=True)
        self.begun += [Begun(*row) for row in rows if row[0]]
        return super().draft(start, num_tokens)
