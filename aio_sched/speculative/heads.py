"""Draft heads: layers that go on from the target model's last hidden state, one for each token.

They share everything else with a model that drafts. Multi-token prediction as in
https://arxiv.org/abs/2412.19437, section 2.2, here without attention: the hidden state that they
start from has seen all of the text, and a layer adds the one token that was guessed since, as in
Hydra, https://arxiv.org/abs/2402.05109. So they have no KV cache, and no prompt to read.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from aio_sched.engine.model import ByteTransformer, ModelConfig
from aio_sched.engine.table import StepTable
from aio_sched.engine.weights import HEADS, check_tensors, read_tensors, refuse, save_tensors
from aio_sched.speculative.drafter import DraftStart, choose_next
from aio_sched.speculative.errors import DraftModelError
from buffers.access import Access

__all__ = ["DraftHeads", "HeadsConfig", "HeadsDrafter", "load_heads", "save_heads"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsConfig:
    """Sizes of ``DraftHeads``; the defaults are those of the weights that we ship.

    Attributes:
        d_model: the target model's.
        vocab: the target model's.
        num_layers: as many tokens can be drafted.
        d_hidden: of each layer's feed-forward part.

    Raises:
        ValueError: a size is below 1.
    """

    d_model: int = 192
    vocab: int = 256
    num_layers: int = 4
    d_hidden: int = 256

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}; it must be an int of at least 1")


class DraftHeads(nn.Module):
    """A stack of layers, each of which looks one token further than the one before.

    Embeddings and the way from a hidden state to logits are the target model's.
    """

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))

    def forward(self, layer: int, hidden: Tensor, embedded: Tensor) -> Tensor:
        """Take one more token in.

        Args:
            layer: which layer, from 0.
            hidden: float ``[..., d_model]``; of the target model for layer 0, else what the
                layer before returned.
            embedded: the token behind it in the target model's embedding, of the same shape.

        Returns:
            The hidden state behind that token, for the target model's ``unembed``.
        """
        behind: Tensor = self.layers[layer](hidden, embedded)
        return behind


class _Layer(nn.Module):
    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        d = config.d_model
        self.hidden_norm = nn.RMSNorm(d, eps=1e-5)
        self.embed_norm = nn.RMSNorm(d, eps=1e-5)
        self.merge = nn.Linear(2 * d, d, bias=False)
        self.mlp_norm = nn.RMSNorm(d, eps=1e-5)
        self.up = nn.Linear(d, config.d_hidden, bias=False)
        self.down = nn.Linear(config.d_hidden, d, bias=False)

    def forward(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        both = torch.cat((self.hidden_norm(hidden), self.embed_norm(embedded)), dim=-1)
        x: Tensor = self.merge(both)
        fed: Tensor = self.down(functional.relu(self.up(self.mlp_norm(x))).square())
        return x + fed


class HeadsDrafter:
    """Drafts with a stack of heads: a ``HiddenDrafter``.

    Its only memory of a request is one hidden state of the target model, behind the last token
    that is kept. It draws with the noise that the target model draws with.

    Args:
        heads: trained for the target model, on its device; at least as many layers as tokens
            are drafted.
    """

    reads_shared_cells = False

    def __init__(self, heads: DraftHeads) -> None:
        self._heads = heads

    def attach(self, target: ByteTransformer, num_draft: int) -> None:
        """Take embedding and logits from the target model; see ``HiddenDrafter.attach``."""
        config = self._heads.config
        for name in ("d_model", "vocab"):
            ours, theirs = getattr(config, name), getattr(target.config, name)
            if ours != theirs:
                raise DraftModelError(
                    f"the draft heads have {name}={ours} and the target model {name}={theirs}; "
                    "draft with heads that were trained for this model"
                )
        if num_draft > config.num_layers:
            raise DraftModelError(
                f"num_draft={num_draft} and the draft heads have {config.num_layers} layers, one "
                f"for each token; draft at most {config.num_layers}"
            )
        ours, theirs = next(self._heads.parameters()).device, target.embed.weight.device
        if ours != theirs:
            raise DraftModelError(
                f"the draft heads are on {ours} and the target model on {theirs}; "
                f"move them with heads.to({str(theirs)!r})"
            )
        self._target = target

    def allocate(self, target: ModelConfig, num_slots: int, device: torch.device) -> None:
        """Make a row for each slot; row 0 is the padding row."""
        self._hidden = torch.zeros((num_slots + 1, target.d_model), device=device)

    def accesses(self, rows: tuple[int, ...]) -> tuple[Access, ...]:
        """Name hidden states."""
        return (Access("draft", "hidden", rows, self._hidden),)

    def keep_hidden(self, slots: Tensor, hidden: Tensor) -> None:
        """Keep what the next draft starts from; see ``HiddenDrafter.keep_hidden``."""
        self._hidden.index_copy_(0, slots, hidden)

    def prefill(self, table: StepTable) -> None:
        """Do nothing: the target model has read the prompt."""

    def draft(self, start: DraftStart, num_tokens: int) -> Tensor:
        """Guess one token with each layer."""
        hidden = self._hidden.index_select(0, start.table.slots)
        tokens = [start.last]
        for number in range(num_tokens):
            hidden = self._heads(number, hidden, self._target.embed(tokens[-1]))
            tokens.append(choose_next(self._target.unembed(hidden), start, number))
        return torch.stack(tokens[1:], dim=1)

    def extend(self, start: DraftStart, drafted: Tensor, chosen: Tensor) -> None:
        """Do nothing: ``keep_hidden`` is all that there is to catch up with."""


def load_heads(path: Path | None = None, device: torch.device | str = "cpu") -> DraftHeads:
    """Build the draft heads for the model of ``load_model``.

    Blocks on reading the file: call it before the scheduler runs. Leaves torch's random generator
    as it was.

    Args:
        path: a file written by ``save_heads``; without it, the weights that we ship.
        device: where the parameters go, as float32 whatever the file holds.

    Raises:
        WeightsError: the file is missing, unreadable, damaged, or holds no draft heads.
    """
    path = HEADS if path is None else Path(path)
    metadata, tensors = read_tensors(path)
    config = _config(path, metadata)
    with torch.random.fork_rng(devices=[]):
        heads = DraftHeads(config)
    check_tensors(path, heads, tensors)
    heads.load_state_dict(tensors)
    return heads.requires_grad_(False).eval().to(device)


def save_heads(heads: DraftHeads, path: Path, facts: Mapping[str, str]) -> None:
    """Write the parameters as float16, beside them the configuration and ``facts``."""
    save_tensors(heads, asdict(heads.config), path, facts)


def _config(path: Path, metadata: Mapping[str, str]) -> HeadsConfig:
    try:
        return HeadsConfig(**json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError) as error:
        refuse(path, f"its metadata describes no draft heads ({error})", error)
