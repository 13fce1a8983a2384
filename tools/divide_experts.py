"""Divide the built-in model's hidden neurons into experts, and find a router for each layer.

    python -m tools.divide_experts

Nothing is trained. The dense model reads some of the text that it was trained on. The neurons
that add most become the shared expert; the others are grouped with those that are active for the
same tokens (balanced k-means, https://arxiv.org/abs/2110.01786). A router is the linear map that
tells best, by least squares, how much each expert will add. Takes half a minute; equal machine
and versions give equal tensors.
"""

import json
from dataclasses import asdict
from hashlib import sha256
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from aio_sched.engine.experts import EXPERTS, MixtureConfig, divided
from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.weights import TOPICS, load_model
from tools.train_topics import read_corpus

NUM_WINDOWS, LENGTH = 64, 256
ROUNDS = 8


class Seen(NamedTuple):
    """What one layer did with the calibration text: its inputs, and how much neurons added."""

    inputs: Tensor  # [tokens, d_model]
    added: Tensor  # [tokens, d_hidden]


def calibrate(model: ByteTransformer, text: Tensor) -> list[Seen]:
    """Run the dense model over windows spread evenly over the text."""
    starts = torch.linspace(0, len(text) - LENGTH, NUM_WINDOWS).long()
    windows = text[starts[:, None] + torch.arange(LENGTH)]
    blocks: list[Any] = list(model.blocks)
    inputs: list[list[Tensor]] = [[] for _ in blocks]
    for layer, block in enumerate(blocks):
        block.up.register_forward_hook(
            lambda _up, given, _out, to=inputs[layer]: to.append(given[0].flatten(0, 1))
        )
    with torch.no_grad():
        for part in windows.chunk(4):
            model(part)
        return [_seen(block, torch.cat(inputs[layer])) for layer, block in enumerate(blocks)]


def _seen(block: Any, inputs: Tensor) -> Seen:
    hidden = functional.relu(block.up(inputs)).square()
    return Seen(inputs, hidden * block.down.weight.norm(dim=0))


def grouped(added: Tensor, num_groups: int) -> list[Tensor]:
    """Group the neurons, ``[tokens, neurons]``, evenly by the tokens that they are active for."""
    profiles = functional.normalize(added.sqrt().T, dim=1)
    room = profiles.shape[0] // num_groups
    centres = profiles[torch.arange(num_groups) * room]
    for _ in range(ROUNDS):
        groups = _fill(profiles @ functional.normalize(centres, dim=1).T, room)
        centres = torch.stack([profiles[group].mean(0) for group in groups])
    return groups


def _fill(likeness: Tensor, room: int) -> list[Tensor]:
    """Give each neuron to the group that it is most like and that has room, the surest first."""
    best = likeness.topk(2, dim=1).values
    groups: list[list[int]] = [[] for _ in range(likeness.shape[1])]
    for neuron in (best[:, 0] - best[:, 1]).argsort(descending=True).tolist():
        wishes = likeness[neuron].argsort(descending=True).tolist()
        next(groups[wish] for wish in wishes if len(groups[wish]) < room).append(neuron)
    return [torch.tensor(group) for group in groups]


def divide(seen: Seen, mixture: MixtureConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return the order of a layer's neurons, and weight and bias of its router."""
    by_weight = seen.added.square().mean(0).argsort(descending=True)
    shared, rest = by_weight[: mixture.d_shared], by_weight[mixture.d_shared :]
    groups = [rest[group] for group in grouped(seen.added[:, rest], mixture.num_experts)]
    wanted = torch.stack([seen.added[:, group].square().sum(1).sqrt() for group in groups], dim=1)
    inputs = functional.pad(seen.inputs, (0, 1), value=1.0)
    ridge = 1e-4 * len(inputs) * torch.eye(inputs.shape[1])
    solution = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ wanted)
    return torch.cat((shared, *groups)), solution[:-1].T, solution[-1]


@torch.no_grad()
def loss_of(model: ByteTransformer, text: Tensor) -> float:
    """Return the mean cross entropy in nats per byte over consecutive windows of 257 bytes."""
    windows = text[: len(text) // 257 * 257].view(-1, 257)
    losses = [
        functional.cross_entropy(model(window[None, :-1])[0], window[1:]) for window in windows
    ]
    return float(torch.stack(losses).mean())


def main() -> None:
    """Divide all layers, say what it costs, and write the file."""
    torch.set_num_threads(1)
    corpus, mixture, dense = read_corpus(), MixtureConfig(), load_model()
    layers = [divide(seen, mixture) for seen in calibrate(load_model(), corpus.training)]
    orders, scores, biases = (torch.stack(each) for each in zip(*layers, strict=True))
    division = {"order": orders.short(), "scores": scores.half(), "bias": biases.half()}
    model = divided(dense, mixture, division)
    facts = {
        "dense_sha256": sha256(TOPICS.read_bytes()).hexdigest(),
        "text_sha256": corpus.sha256,
        "mixture": json.dumps(asdict(mixture)),
        "val_loss_dense": f"{loss_of(dense, corpus.held_out):.4f}",
        "val_loss": f"{loss_of(model, corpus.held_out):.4f}",
    }
    print(facts)
    save_file({name: tensor.contiguous() for name, tensor in division.items()}, EXPERTS, facts)
    EXPERTS.chmod(0o644)


if __name__ == "__main__":
    main()
