"""Train the built-in models on the language reference that every Python carries.

    python tools/train_topics.py --minutes 36 --compile
    python tools/train_topics.py --minutes 36 --compile --resume --rate 2e-3 --seed 1
    python tools/train_topics.py --draft --steps 50000 --minutes 11.5 --compile

The last one trains the small model that drafts for the other: not to predict the text but what the
other predicts (distillation), since a draft is accepted if that is what the other says.

The text is ``pydoc_data.topics``: its topics in their order, each ended by byte 0. The last 5 % are
held out. Equal steps, seed, machine and versions give equal weights; with ``--minutes`` the speed
of the machine decides how many steps there are.
"""

import argparse
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from aio_sched.engine.model import ByteTransformer, ModelConfig
from aio_sched.engine.weights import DRAFT, TOPICS, load_model, save_model

# Windows grow while the batch keeps its size: short ones are cheap and teach spelling and words,
# and only the long ones at the end show the model every position that it can be asked for.
BATCH_TOKENS = 1024
WINDOWS = ((0.45, 128), (0.85, 256), (1.0, 512))
WARM_UP_STEPS = 100
DRAFT_SIZES = ModelConfig(d_model=96, num_layers=2, num_heads=2, d_hidden=384)

Lesson = tuple[Tensor, Tensor]
"""Tokens, int64 ``[rows, length]``, and what to say after each: the next ones, int64 of the same
shape, or how likely each is, float ``[rows, length, vocab]``."""


class Corpus(NamedTuple):
    """The text: int64 ``[bytes]`` each, and the SHA-256 of both together."""

    training: Tensor
    held_out: Tensor
    sha256: str


class Progress(NamedTuple):
    """How far training is: losses in nats per byte; ``done`` is the part of the budget used up."""

    step: int
    elapsed_s: float
    done: float
    train_loss: float


def read_corpus() -> Corpus:
    """Return all topics, each followed by byte 0, divided for training and validation."""
    raw = b"".join(text.encode() + b"\0" for text in topics.values())
    text = torch.frombuffer(bytearray(raw), dtype=torch.uint8).long()
    end = len(text) * 95 // 100
    return Corpus(text[:end], text[end:], hashlib.sha256(raw).hexdigest())


def initialise(model: ByteTransformer) -> None:
    """Draw the weights: each block starts as the identity, so that depth costs no warm-up."""
    nn.init.normal_(model.embed.weight, std=0.02)
    for name, weight in model.blocks.named_parameters():
        if name.endswith(("out.weight", "down.weight")):
            nn.init.zeros_(weight)
        elif weight.ndim == 2:
            nn.init.normal_(weight, std=0.6 / math.sqrt(weight.shape[1]))


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW that decays the matrices only, without embeddings."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and name != "embed.weight"]
    others = [p for name, p in named if p.ndim != 2 or name == "embed.weight"]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def rate_factor(at: Progress) -> float:
    """Return the learning rate relative to its peak: linear warm-up, then a cosine to 3 %."""
    return min(1.0, (at.step + 1) / WARM_UP_STEPS) * (0.515 + 0.485 * math.cos(math.pi * at.done))


def draw_windows(text: Tensor, done: float) -> Lesson:
    """Draw windows of the text; the length grows with ``done``."""
    length = next(length for until, length in WINDOWS if done <= until)
    starts = torch.randint(0, len(text) - length, (BATCH_TOKENS // length, 1))
    windows = text[starts + torch.arange(length + 1)]
    return windows[:, :-1], windows[:, 1:]


@torch.no_grad()
def ask_teacher(teacher: ByteTransformer, text: Tensor) -> Iterator[Lesson]:
    """Let a model read the text in windows that overlap by half; one window each."""
    length = teacher.config.max_len
    for start in range(0, len(text) - length, length // 2):
        window = text[None, start : start + length]
        yield window, teacher(window).softmax(dim=-1).half()


def draw_lessons(lessons: list[Lesson]) -> Lesson:
    """Draw as many of the teacher's windows as make a batch."""
    rows = BATCH_TOKENS // lessons[0][0].shape[1]
    drawn = [lessons[int(number)] for number in torch.randint(0, len(lessons), (rows,))]
    windows, answers = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return windows, answers.float()


def loss_of(forward: Callable[[Tensor], Tensor], lesson: Lesson) -> Tensor:
    """Return the mean cross entropy in nats per byte, float32 scalar."""
    tokens, wanted = lesson
    return functional.cross_entropy(forward(tokens).flatten(0, 1), wanted.flatten(0, 1))


@torch.no_grad()
def validate(model: ByteTransformer, text: Tensor) -> float:
    """Return the mean loss over consecutive windows of 257 bytes."""
    windows = text[: len(text) // 257 * 257].view(-1, 1, 257)
    lessons = [(window[:, :-1], window[:, 1:]) for window in windows]
    return sum(float(loss_of(model, lesson)) for lesson in lessons) / len(lessons)


@torch.no_grad()
def agreement(model: ByteTransformer, teacher: ByteTransformer, text: Tensor) -> float:
    """Return how often both find the same next byte likeliest, in consecutive windows of 256."""
    windows = text[: len(text) // 256 * 256].view(-1, 256)
    same = [(model(w[None]).argmax(-1) == teacher(w[None]).argmax(-1)).float() for w in windows]
    return float(torch.cat(same).mean())


def advance(at: Progress, began: float, loss: float, args: argparse.Namespace) -> Progress:
    """Count a step; the budget is spent by steps or by minutes, whichever runs out first."""
    step, elapsed_s = at.step + 1, time.monotonic() - began
    train_loss = at.train_loss + (loss - at.train_loss) / min(step, 100)
    done = min(1.0, max(step / args.steps, elapsed_s / (60 * args.minutes)))
    return Progress(step, elapsed_s, done, train_loss)


def runs_of(path: Path) -> list[dict[str, object]]:
    """Return the facts of each run of this script that made a weights file."""
    with safe_open(path, framework="pt") as file:
        runs: list[dict[str, object]] = json.loads(file.metadata()["runs"])
    return runs


def facts_of(corpus: Corpus, at: Progress, val_loss: float, seed: int) -> dict[str, object]:
    """Return what there is to know of this run, so that a file says where it comes from."""
    return {
        "text": f"pydoc_data.topics of Python {platform.python_version()}",
        "text_sha256": corpus.sha256,
        "torch": torch.__version__,
        "seed": seed,
        "steps": at.step,
        "bytes_seen": at.step * BATCH_TOKENS,
        "train_loss": round(at.train_loss, 4),
        "val_loss": round(val_loss, 4),
    }


def make_model(args: argparse.Namespace) -> ByteTransformer:
    """Return the model to train, new or with the weights that there are."""
    if args.resume:
        return load_model(args.out).requires_grad_(True)
    model = ByteTransformer(DRAFT_SIZES if args.draft else ModelConfig())
    initialise(model)
    return model


def optimise(
    model: nn.Module,
    loss_at: Callable[[Progress], Tensor],
    save: Callable[[Progress], None],
    args: argparse.Namespace,
) -> None:
    """Train, and save every few minutes and at the end.

    Args:
        model: what is trained.
        loss_at: draws a batch and returns its loss.
        save: writes the weights.
        args: those of ``add_options``.
    """
    optimizer = make_optimizer(model)
    began = saved = time.monotonic()
    at = Progress(0, 0.0, 0.0, math.log(256))
    while at.done < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.rate * rate_factor(at)
        loss: Any = loss_at(at)  # torch does not annotate Tensor.backward
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        at = advance(at, began, loss.item(), args)
        if at.step % 200 == 0:
            print(f"{at.elapsed_s:6.0f} s  step {at.step}  train {at.train_loss:.4f}", flush=True)
        if at.done == 1 or time.monotonic() - saved > 60 * args.checkpoint_minutes:
            saved = time.monotonic()
            save(at)


def prepare_torch(args: argparse.Namespace) -> None:
    """Seed it, and make it fast."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)


def train(args: argparse.Namespace) -> None:
    """Train, and write the weights every few minutes and at the end."""
    prepare_torch(args)
    corpus = read_corpus()
    former = runs_of(args.out) if args.resume else []
    model = make_model(args)
    teacher = load_model() if args.draft else None
    lessons = list(ask_teacher(teacher, corpus.training)) if teacher else []
    # Any: torch does not annotate what compile returns.
    forward: Any = torch.compile(model, dynamic=False) if args.compile else model

    def loss_at(at: Progress) -> Tensor:
        lesson = draw_lessons(lessons) if lessons else draw_windows(corpus.training, at.done)
        return loss_of(forward, lesson)

    def save(at: Progress) -> None:
        facts = facts_of(corpus, at, validate(model, corpus.held_out), args.seed)
        if teacher is not None:
            facts["agreement"] = round(agreement(model, teacher, corpus.held_out), 4)
        print(facts, flush=True)
        save_model(model, args.out, {"runs": json.dumps([*former, facts])})

    optimise(model, loss_at, save, args)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``optimise`` and ``prepare_torch``."""
    parser.add_argument("--out", type=Path, help="safetensors file to write (default: ours)")
    parser.add_argument("--steps", type=int, default=8000, help="steps of 1024 bytes")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after this time")
    parser.add_argument("--checkpoint-minutes", type=float, default=4.0, help="between two files")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the windows")
    parser.add_argument("--threads", type=int, default=1, help="of torch")


def main() -> None:
    """Parse the options and train."""
    parser = argparse.ArgumentParser(
        description="Train the built-in model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_options(parser)
    parser.add_argument("--draft", action="store_true", help="train the model that drafts")
    parser.add_argument("--compile", action="store_true", help="1.4x faster; needs a C++ compiler")
    parser.add_argument("--resume", action="store_true", help="go on from the weights in OUT")
    args = parser.parse_args()
    args.out = args.out or (DRAFT if args.draft else TOPICS)
    train(args)


if __name__ == "__main__":
    main()
