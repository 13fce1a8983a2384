"""The built-in language model: a byte-level decoder-only transformer in plain torch.

An engine launches `ByteTransformer.prefill` and `ByteTransformer.decode`. They only enqueue: no
value of a tensor decides anything on the host, so both can be captured in a CUDA graph, and a batch
always has the shape that it was planned with, padded by rows of slot 0.

**Batch invariance.** At one shape, the logits of a row are the same bits whatever the other rows
hold, and in whichever row and slot the request sits. Without that, two schedules that compose their
batches differently would write different texts. It follows from three choices:

* Rows meet in matrix products only, each of one shape for every batch. The sum over the inner
  dimension then has one order for all rows; a product of another shape may have another order.
* Attention reads all ``max_len`` positions of the slot behind a mask, never as many as the longest
  neighbour happens to need. It is written out, because with one query per row the last bits of
  torch's fused kernel for CPUs change with the thread that a row falls to: each works on its own
  piece of one buffer, and the pieces are not equally aligned.
* The activation is ``relu(x) ** 2``. Between the products, everything that runs over many rows at
  once is exactly rounded, so that it does not matter which elements fall into a vector register and
  which into the scalar remainder (an ``exp`` or ``tanh`` differs between the two in the last bit).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from aio_sched.engine.kv_cache import KVCache

__all__ = ["EOS", "ByteTransformer", "ModelConfig", "future_of"]

EOS = 0
"""The token that ends a text: byte 0, which occurs in no text."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Mixes a layer's values: its number, queries, keys and values, ``[rows, heads, T, head_dim]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes of a `ByteTransformer`; the defaults are those of the weights that we ship.

    Raises:
        ValueError: A size is below 1, or ``d_model`` has no even share for each head.
    """

    d_model: int = 192
    num_layers: int = 4
    num_heads: int = 6
    d_hidden: int = 768
    max_len: int = 512
    vocab: int = 256
    rope_base: float = 10_000.0

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in self.__slots__ if name != "rope_base"}
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}; it must be an int of at least 1")
        if self.d_model % (2 * self.num_heads):
            raise ValueError(
                f"d_model {self.d_model} cannot be shared by {self.num_heads} heads of even width"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_heads


class ByteTransformer(nn.Module):
    """A decoder-only transformer over bytes: RMSNorm, rotary positions, tied embeddings.

    `forward` is for training and for tests; engines use `prefill` and `decode`, which enqueue on
    the current stream. Their logits and the cache rows that they wrote hold once that stream has
    come so far. They trust their arguments: a position beyond the cache is an IndexError on a
    CPU and a sticky fault on an accelerator, so the engine has to refuse prompts that are too long.
    """

    rope: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.d_model)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=1e-5)
        self.register_buffer("rope", _rope_table(config), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Score every next byte of whole sequences, without a cache.

        Args:
            tokens: int64 ``[rows, length]``.

        Returns:
            Logits, float ``[rows, length, vocab]``.
        """
        return self.unembed(self.hidden(tokens))

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return the hidden states of whole sequences, float ``[rows, length, d_model]``."""

        def causal(_layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True)

        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return self._hidden(tokens, positions, causal)

    def unembed(self, hidden: Tensor) -> Tensor:
        """Tell what hidden states say of the next token.

        Args:
            hidden: float ``[..., d_model]``, as the last layer leaves them.

        Returns:
            Logits, float ``[..., vocab]``.
        """
        return functional.linear(self.norm(hidden), self.embed.weight)

    @torch.inference_mode()
    def prefill(
        self, tokens: Tensor, slots: Tensor, starts: Tensor, lengths: Tensor, cache: KVCache
    ) -> Tensor:
        """Read the next chunk of some prompts, after what their slots hold already.

        Args:
            tokens: int64 ``[P, T]``; what follows a row's length is ignored.
            slots: int64 ``[P]``; all different, except for padding rows, which have 0.
            starts: int64 ``[P]``, position of the row's first token.
            lengths: int64 ``[P]``, tokens of the row, up to T; 0 in a padding row.
            cache: Gains positions ``starts`` to ``starts + lengths - 1`` of each slot.

        Returns:
            Logits after the last token of each row, float ``[P, vocab]``.
        """
        return self.unembed(self.prefill_hidden(tokens, slots, starts, lengths, cache))

    @torch.inference_mode()
    def prefill_hidden(
        self, tokens: Tensor, slots: Tensor, starts: Tensor, lengths: Tensor, cache: KVCache
    ) -> Tensor:
        """Prefill, but return the hidden states that ``unembed`` takes, float ``[P, d_model]``."""
        rows, length = tokens.shape
        offsets = torch.arange(length, device=tokens.device)
        is_real = offsets < lengths[:, None]
        positions = torch.where(is_real, starts[:, None] + offsets, 0)
        owners = torch.where(is_real, slots[:, None], 0)
        hidden = self._extend(tokens, owners, positions, slots, cache)
        last = (lengths - 1).clamp(min=0)
        return hidden[torch.arange(rows, device=tokens.device), last]

    @torch.inference_mode()
    def decode(self, tokens: Tensor, slots: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """Read one token of each request.

        Args:
            tokens: int64 ``[B]``.
            slots: int64 ``[B]``; all different, except for padding rows, which have 0.
            positions: int64 ``[B]``, where the tokens stand.
            cache: Gains position ``positions`` of each slot.

        Returns:
            Logits after each token, float ``[B, vocab]``.
        """
        owners, places = slots[:, None], positions[:, None]
        return self.unembed(self._extend(tokens[:, None], owners, places, slots, cache)[:, 0])

    @torch.inference_mode()
    def score(
        self,
        tokens: Tensor,
        owners: Tensor,
        positions: Tensor,
        slots: Tensor,
        cache: KVCache,
        is_future: Tensor | None = None,
    ) -> Tensor:
        """Read some tokens of each request, and tell what each position says of the next one.

        Args:
            tokens: int64 ``[B, T]``.
            owners: int64 ``[B, T]``, the slot that keeps each token; 0 where none shall.
            positions: int64 ``[B, T]``, where the tokens stand; 0 where the owner is 0.
            slots: int64 ``[B]``, as for ``decode``.
            cache: Gains ``positions`` of ``owners``.
            is_future: ``future_of`` the positions, where the caller has it already.

        Returns:
            Logits after each token, float ``[B, T, vocab]``.
        """
        hidden = self.score_hidden(tokens, owners, positions, slots, cache, is_future)
        return self.unembed(hidden)

    @torch.inference_mode()
    def score_hidden(
        self,
        tokens: Tensor,
        owners: Tensor,
        positions: Tensor,
        slots: Tensor,
        cache: KVCache,
        is_future: Tensor | None = None,
    ) -> Tensor:
        """Score, but return the hidden states that ``unembed`` takes, ``[B, T, d_model]``."""
        return self._extend(tokens, owners, positions, slots, cache, is_future)

    def _extend(
        self,
        tokens: Tensor,
        owners: Tensor,
        positions: Tensor,
        slots: Tensor,
        cache: KVCache,
        is_future: Tensor | None = None,
    ) -> Tensor:
        """Return hidden states ``[rows, T, d_model]``; writes the rows of ``owners``."""
        if is_future is None:
            is_future = future_of(positions, cache.max_len)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.write(layer, owners, positions, k, v)
            keys, values = cache.read(layer, slots)
            scores = (q * q.shape[-1] ** -0.5) @ keys.mT
            mixed: Tensor = scores.masked_fill(is_future, -torch.inf).softmax(dim=-1) @ values
            return mixed

        return self._hidden(tokens, positions, attend)

    def _hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        x: Tensor = self.embed(tokens)
        cos, sin = self.rope[:, positions][:, :, None]
        for layer, block in enumerate(self.blocks):
            x = block(x, cos, sin, layer, attend)
            x = x + self._feed(layer, block, x)
        return x

    def _feed(self, _layer: int, block: Any, x: Tensor) -> Tensor:
        """Return what a layer's feed-forward part adds; models with experts route here."""
        fed: Tensor = block.feed(x)
        return fed


def future_of(positions: Tensor, max_len: int) -> Tensor:
    """Return what a query at each position must not see, bool ``[rows, 1, T, max_len]``.

    Args:
        positions: int64 ``[rows, T]``.
        max_len: Positions of the cache.
    """
    columns = torch.arange(max_len, device=positions.device)
    return columns > positions[:, None, :, None]


class _Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.d_model
        self.num_heads = config.num_heads
        self.attn_norm = nn.RMSNorm(d, eps=1e-5)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        self.mlp_norm = nn.RMSNorm(d, eps=1e-5)
        self.up = nn.Linear(d, config.d_hidden, bias=False)
        self.down = nn.Linear(config.d_hidden, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, attend: Attend) -> Tensor:
        rows, length, d = x.shape
        qkv = self.qkv(self.attn_norm(x)).view(rows, length, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attend(layer, _rotate(q, cos, sin), _rotate(k, cos, sin), v)
        attended: Tensor = x + self.out(mixed.transpose(1, 2).reshape(rows, length, d))
        return attended

    def feed(self, x: Tensor) -> Tensor:
        fed: Tensor = self.down(functional.relu(self.up(self.mlp_norm(x))).square())
        return fed


def _rope_table(config: ModelConfig) -> Tensor:
    """Return cosines and sines of all angles, float32 ``[2, max_len, head_dim / 2]``.

    Rotary position embedding, https://arxiv.org/abs/2104.09864, section 3.4.
    """
    half = config.head_dim // 2
    rate = config.rope_base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(config.max_len, dtype=torch.float64)[:, None] * rate
    return torch.stack((angle.cos(), angle.sin())).float()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
