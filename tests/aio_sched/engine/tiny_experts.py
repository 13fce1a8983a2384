"""A small rigged mixture of experts, and what its layers choose when it reads a text at once."""

from functools import cache

import torch
from torch import Tensor

from aio_sched.engine.experts import MixtureConfig, MixtureTransformer, divided
from aio_sched.engine.requests import Request
from tests.aio_sched.engine.tiny import TINY, RiggedModel, rigged

__all__ = [
    "MIXTURE",
    "RiggedMixture",
    "assert_routed_right",
    "num_read",
    "rigged_mixture",
    "scores_of",
    "wins",
]

MIXTURE = MixtureConfig(num_experts=4, top_k=2, d_shared=8)


class RiggedMixture(RiggedModel, MixtureTransformer):
    """A tiny mixture whose steps tests can hold and break."""

    def __init__(self) -> None:
        MixtureTransformer.__init__(self, TINY, MIXTURE)
        self.kinds, self.before, self.faults = [], {}, {}


@cache
def _weights() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    orders = [torch.randperm(TINY.d_hidden, generator=draw) for _ in range(TINY.num_layers)]
    shape = (TINY.num_layers, MIXTURE.num_experts)
    division = {
        "order": torch.stack(orders),
        "scores": torch.randn((*shape, TINY.d_model), generator=draw),
        "bias": torch.randn(shape, generator=draw),
    }
    return divided(rigged(), MIXTURE, division).state_dict()


def rigged_mixture() -> RiggedMixture:
    """Make a tiny mixture; all have the same weights, divided from those of ``rigged``."""
    model = RiggedMixture()
    model.load_state_dict(_weights())
    return model.requires_grad_(False)


def scores_of(model: MixtureTransformer, text: bytes) -> Tensor:
    """Return the router scores of a plain forward of a whole text, ``[tokens, layers, experts]``.

    Not by way of what is captured: by hooks on the routers.
    """
    seen: list[Tensor] = []
    hooks = [
        router.register_forward_hook(lambda _router, _given, out: seen.append(out[0]))
        for router in model.routers
    ]
    with torch.no_grad():
        model(torch.tensor([list(text)]))
    for hook in hooks:
        hook.remove()
    return torch.stack(seen, dim=1)


def wins(scores: Tensor, chosen: Tensor, tolerance: float = 1e-3) -> bool:
    """Whether the chosen experts are the best ones, best first.

    Sums in another order may differ in the last bits: one may be behind by ``tolerance``.
    """
    best = scores.topk(chosen.shape[-1]).values
    return bool((scores.gather(-1, chosen.long()) >= best - tolerance).all())


def num_read(request: Request) -> int:
    """How many tokens of an ended request the model has read for its text."""
    assert request.finish is not None
    is_end_sampled = request.finish.value == "end_of_text"
    return len(request.prompt) + len(request.output) - 1 + is_end_sampled


def assert_routed_right(model: MixtureTransformer, request: Request) -> None:
    """Each row is what a plain forward of the whole text chooses, and there is one per token."""
    experts = request.routed_experts
    assert experts is not None
    shape = model.capture_shape
    assert experts.dtype is torch.int16
    assert experts.shape == (num_read(request), shape.num_layers, shape.top_k)
    text = (request.prompt + bytes(request.output))[: num_read(request)]
    assert wins(scores_of(model, text), experts)
