"""Train the draft heads of the built-in model to say what that model would.

    python -m tools.train_heads --minutes 8 --compile

The model is frozen, and read anew in every step. Each layer is given the token that really came,
not the one that the layer before would guess: where the two differ, nothing that it says is used.
"""

import argparse
import json
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.weights import HEADS, load_model
from aio_sched.speculative.heads import DraftHeads, HeadsConfig, save_heads
from tools.train_topics import (
    Progress,
    add_options,
    draw_windows,
    facts_of,
    optimise,
    prepare_torch,
    read_corpus,
)


def initialise(heads: DraftHeads) -> None:
    """Draw the weights; feed-forward parts start as nothing."""
    for name, weight in heads.named_parameters():
        if name.endswith("down.weight"):
            nn.init.zeros_(weight)
        elif weight.ndim == 2:
            nn.init.normal_(weight, std=0.6 / math.sqrt(weight.shape[1]))


class Lesson(nn.Module):
    """What each layer says of each place, and what the teacher says.

    Args:
        heads: to be trained.
        teacher: the target model, frozen.
    """

    def __init__(self, heads: DraftHeads, teacher: ByteTransformer) -> None:
        super().__init__()
        self.heads, self.teacher = heads, teacher

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Read windows, int64 ``[rows, length]``.

        Returns:
            Logits of the heads and of the teacher, float ``[layers, rows, places, vocab]``.
        """
        with torch.no_grad():
            states = self.teacher.hidden(tokens)
            wanted = self.teacher.unembed(states)
            embedded = self.teacher.embed(tokens)
        num_layers = self.heads.config.num_layers
        num_places = tokens.shape[1] - num_layers
        hidden, said, right = states[:, :num_places], [], []
        for layer in range(num_layers):
            ahead = slice(layer + 1, layer + 1 + num_places)
            hidden = self.heads(layer, hidden, embedded[:, ahead])
            said.append(self.teacher.unembed(hidden))
            right.append(wanted[:, ahead])
        return torch.stack(said), torch.stack(right)


def loss_of(lesson: Any, tokens: Tensor) -> Tensor:
    """Return the mean cross entropy over all layers in nats per byte, float32 scalar."""
    said, wanted = lesson(tokens)
    return functional.cross_entropy(said.flatten(0, 2), wanted.softmax(dim=-1).flatten(0, 2))


@torch.no_grad()
def validate(lesson: Lesson, text: Tensor) -> tuple[float, list[float]]:
    """Return the mean loss, and how often each layer and those before it agree with the teacher."""
    windows = text[: len(text) // 256 * 256].view(-1, 1, 256)
    loss = sum(float(loss_of(lesson, window)) for window in windows) / len(windows)
    same = []
    for window in windows:
        said, wanted = lesson(window)
        same.append((said.argmax(-1) == wanted.argmax(-1)).float().cumprod(0).flatten(1))
    return loss, torch.cat(same, dim=1).mean(dim=1).tolist()


def train(args: argparse.Namespace) -> None:
    """Train, and write the weights every few minutes and at the end."""
    prepare_torch(args)
    corpus = read_corpus()
    heads = DraftHeads(HeadsConfig())
    initialise(heads)
    lesson = Lesson(heads, load_model())
    forward = torch.compile(lesson, dynamic=False) if args.compile else lesson

    def save(at: Progress) -> None:
        val_loss, agreements = validate(lesson, corpus.held_out)
        facts = facts_of(corpus, at, val_loss, args.seed)
        facts["agreement"] = [round(each, 4) for each in agreements]
        print(facts, flush=True)
        save_heads(heads, args.out, {"runs": json.dumps([facts])})

    def loss_at(at: Progress) -> Tensor:
        return loss_of(forward, draw_windows(corpus.training, at.done)[0])

    optimise(heads, loss_at, save, args)


def main() -> None:
    """Parse the options and train."""
    parser = argparse.ArgumentParser(
        description="Train the draft heads.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_options(parser)
    args = parser.parse_args()
    args.out = args.out or HEADS
    train(args)


if __name__ == "__main__":
    main()
