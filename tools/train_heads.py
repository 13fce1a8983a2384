"""Train the draft heads of the built-in model to say what that model would.

    python -m tools.train_heads --minutes 8

The model is frozen, and reads the text once: 170 MB of hidden states. Heads look at nothing else,
so every place of the text is a lesson of its own. Each layer is given the token that really came,
not the one that the layer before would guess: where the two differ, nothing that it says is used.
"""

import argparse
import json
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.weights import HEADS, load_model
from aio_sched.speculative.heads import DraftHeads, HeadsConfig, save_heads
from tools.train_topics import (
    BATCH_TOKENS,
    Progress,
    add_options,
    facts_of,
    optimise,
    prepare_torch,
    read_corpus,
)


class Reading(NamedTuple):
    """A text that the teacher has read in windows of its context, one behind the other.

    Attributes:
        teacher: who read it.
        text: int64 ``[bytes]``.
        states: float16 ``[bytes, d_model]``, its hidden states.
    """

    teacher: ByteTransformer
    text: Tensor
    states: Tensor

    def places(self, num_layers: int) -> Tensor:
        """Return all places that have so many more behind them in their window, int64."""
        length = self.teacher.config.max_len
        places = torch.arange(len(self.text))
        return places[places % length < length - num_layers]


@torch.no_grad()
def read(teacher: ByteTransformer, text: Tensor) -> Reading:
    """Let the teacher read whole windows of a text."""
    windows = text[: len(text) // teacher.config.max_len * teacher.config.max_len]
    windows = windows.view(-1, 1, teacher.config.max_len)
    states = torch.cat([teacher.hidden(window)[0].half() for window in windows])
    return Reading(teacher, windows.flatten(), states)


def initialise(heads: DraftHeads) -> None:
    """Draw the weights; feed-forward parts start as nothing."""
    for name, weight in heads.named_parameters():
        if name.endswith("down.weight"):
            nn.init.zeros_(weight)
        elif weight.ndim == 2:
            nn.init.normal_(weight, std=0.6 / math.sqrt(weight.shape[1]))


def compare(heads: DraftHeads, reading: Reading, places: Tensor) -> tuple[Tensor, Tensor]:
    """Tell what each layer and the teacher say behind some places.

    Returns:
        Logits of the heads and of the teacher, float ``[layers, places, vocab]``.
    """
    teacher, said, wanted = reading.teacher, [], []
    hidden = reading.states[places].float()
    for layer in range(heads.config.num_layers):
        places = places + 1
        hidden = heads(layer, hidden, teacher.embed(reading.text[places]))
        said.append(teacher.unembed(hidden))
        wanted.append(teacher.unembed(reading.states[places].float()))
    return torch.stack(said), torch.stack(wanted)


def loss_of(said: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean cross entropy over all layers in nats per byte, float32 scalar."""
    return functional.cross_entropy(said.flatten(0, 1), wanted.softmax(dim=-1).flatten(0, 1))


@torch.no_grad()
def validate(heads: DraftHeads, reading: Reading) -> tuple[float, list[float]]:
    """Return the mean loss, and how often each layer and all before it agree with the teacher."""
    said, wanted = compare(heads, reading, reading.places(heads.config.num_layers))
    same = (said.argmax(-1) == wanted.argmax(-1)).float().cumprod(dim=0)
    return loss_of(said, wanted).item(), same.mean(dim=1).tolist()


def train(args: argparse.Namespace) -> None:
    """Train, and write the weights every few minutes and at the end."""
    prepare_torch(args)
    corpus = read_corpus()
    heads = DraftHeads(HeadsConfig())
    initialise(heads)
    teacher = load_model()
    lessons, held_out = read(teacher, corpus.training), read(teacher, corpus.held_out)
    places = lessons.places(heads.config.num_layers)

    def save(at: Progress) -> None:
        val_loss, agreements = validate(heads, held_out)
        facts = facts_of(corpus, at, val_loss, args.seed)
        facts["agreement"] = [round(each, 4) for each in agreements]
        print(facts, flush=True)
        save_heads(heads, args.out, {"runs": json.dumps([facts])})

    def loss_at(_at: Progress) -> Tensor:
        drawn = places[torch.randint(0, len(places), (BATCH_TOKENS,))]
        return loss_of(*compare(heads, lessons, drawn))

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
