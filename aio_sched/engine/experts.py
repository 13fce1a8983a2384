"""A mixture of experts with the built-in model's weights.

The hidden neurons of each feed-forward part are divided into experts, and a router lets only the
likeliest ones of a token work: "MoEfication", https://arxiv.org/abs/2110.01786, with the neurons
that matter most as a shared expert, which each token has. Nothing is trained: the dense weights
stay as they are, and ``tools/divide_experts.py`` finds the division and the routers.

Batch invariance (see ``model.py``) stays too: all experts compute for every row in the products of
the dense model, and those that were not chosen are multiplied by 0 before the sum. So nothing is
saved; what is the same as in a large model is what the router tells, and that is what is captured.
"""

import copy
import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from aio_sched.engine.model import ByteTransformer, ModelConfig
from aio_sched.engine.weights import TOPICS, WeightsError, load_model
from buffers.capture import CaptureCache, CaptureShape

__all__ = ["EXPERTS", "MixtureConfig", "MixtureTransformer", "divided", "load_mixture"]

EXPERTS = TOPICS.with_name("experts.safetensors")
"""Division and routers of the weights that we ship, by ``tools/divide_experts.py``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureConfig:
    """How the hidden neurons of each layer are divided.

    Attributes:
        num_experts: experts to choose from, of equal size.
        top_k: experts that a token gets.
        d_shared: neurons of the shared expert, which comes first; 0 for none.

    Raises:
        ValueError: A number out of range.
    """

    num_experts: int = 8
    top_k: int = 3
    d_shared: int = 192

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts < 2**15 or self.d_shared < 0:
            raise ValueError(f"{self} is impossible; give 1 <= top_k <= num_experts < 32768")

    @property
    def num_shared(self) -> int:
        """Shared experts; they are numbered behind the others."""
        return int(self.d_shared > 0)


class MixtureTransformer(ByteTransformer):
    """A ``ByteTransformer`` whose feed-forward parts consist of experts.

    Attributes:
        mixture: the division.
        routers: of each layer, from the normed input of its feed-forward part to a score for
            each expert.

    Raises:
        ValueError: the hidden neurons cannot be divided so.
    """

    def __init__(self, config: ModelConfig, mixture: MixtureConfig) -> None:
        d_routed = config.d_hidden - mixture.d_shared
        if d_routed < mixture.num_experts or d_routed % mixture.num_experts:
            raise ValueError(
                f"{config.d_hidden} hidden neurons less {mixture.d_shared} shared ones cannot be "
                f"divided among {mixture.num_experts} experts"
            )
        super().__init__(config)
        self.mixture = mixture
        self.routers = nn.ModuleList(
            nn.Linear(config.d_model, mixture.num_experts) for _ in range(config.num_layers)
        )
        self._capture: CaptureCache | None = None

    @property
    def capture_shape(self) -> CaptureShape:
        """What a ``CaptureCache`` for this model holds of each token."""
        return CaptureShape(self.config.num_layers, self.mixture.top_k, self.mixture.num_shared)

    def capturing(self, capture: CaptureCache) -> Self:
        """Return this model, with the same parameters, writing what each layer chooses.

        ``prefill`` and ``decode`` of what is returned fill ``capture``, in the order of their
        rows; ``forward`` has no slots, and must not be called.
        """
        model = copy.copy(self)
        model._capture = capture
        return model

    def _extend(
        self, tokens: Tensor, owners: Tensor, positions: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        if self._capture is not None:
            self._capture.place(owners, positions)
        return super()._extend(tokens, owners, positions, *args, **kwargs)

    def _feed(self, layer: int, block: Any, x: Tensor) -> Tensor:
        normed = block.mlp_norm(x)
        chosen = self.routers[layer](normed).topk(self.mixture.top_k).indices
        if self._capture is not None:
            columns = functional.pad(
                chosen, (0, self.mixture.num_shared), value=self.mixture.num_experts
            )
            self._capture.write(layer, columns)
        hidden = functional.relu(block.up(normed)).square()
        fed: Tensor = block.down(self._gated(hidden, chosen))
        return fed

    def _gated(self, hidden: Tensor, chosen: Tensor) -> Tensor:
        """Silence the neurons of experts that were not chosen."""
        shared, routed = hidden.tensor_split([self.mixture.d_shared], dim=-1)
        gates = torch.zeros_like(routed[..., : self.mixture.num_experts]).scatter(-1, chosen, 1.0)
        routed = routed.reshape(*gates.shape, -1) * gates[..., None]
        return torch.cat((shared, routed.flatten(-2)), dim=-1)


def load_mixture(device: torch.device | str = "cpu") -> MixtureTransformer:
    """Build the mixture of experts of the weights that we ship, ready for inference.

    Blocks on reading two files: call it before the scheduler runs.

    Args:
        device: Where the parameters go, as float32.

    Raises:
        WeightsError: A file is missing or damaged, or the division is of other weights.
    """
    dense = load_model()
    facts, tensors = _read(EXPERTS)
    if facts.get("dense_sha256") != sha256(TOPICS.read_bytes()).hexdigest():
        _fail(f"it divides other weights than those in {TOPICS}")
    try:
        mixture = MixtureConfig(**json.loads(facts["mixture"]))
        return divided(dense, mixture, tensors).to(device)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        _fail(f"it fits no MixtureTransformer: {error}", error)


def divided(
    dense: ByteTransformer, mixture: MixtureConfig, division: dict[str, Tensor]
) -> MixtureTransformer:
    """Divide the neurons of a dense model.

    Args:
        dense: The model; it keeps its weights.
        mixture: The sizes.
        division: ``order``, integers ``[layers, d_hidden]``: the neurons of the shared expert
            and then those of each other one; ``scores`` ``[layers, num_experts, d_model]`` and
            ``bias`` ``[layers, num_experts]`` of the routers.

    Raises:
        KeyError: A tensor of the division is missing.
        RuntimeError: One has another shape.
    """
    state = dense.state_dict()
    for layer, order in enumerate(division["order"].long()):
        state[f"blocks.{layer}.up.weight"] = state[f"blocks.{layer}.up.weight"][order]
        state[f"blocks.{layer}.down.weight"] = state[f"blocks.{layer}.down.weight"][:, order]
        state[f"routers.{layer}.weight"] = division["scores"][layer]
        state[f"routers.{layer}.bias"] = division["bias"][layer]
    with torch.random.fork_rng(devices=[]):
        model = MixtureTransformer(dense.config, mixture)
    model.load_state_dict(state)
    return model.requires_grad_(False).eval()


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            names: list[str] = file.keys()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        _fail(f"it cannot be read ({error})", error)


def _fail(problem: str, cause: BaseException | None = None) -> NoReturn:
    raise WeightsError(
        f"cannot load the experts' file {EXPERTS}: {problem}; reinstall aio-sched, or make it "
        "anew with tools/divide_experts.py"
    ) from cause
