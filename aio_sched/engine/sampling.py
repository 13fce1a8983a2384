"""Greedy and seeded sampling, on the device.

The noise of a request is a hash of its seed, of the token's position and of the token's number. So
it depends on nothing else: not on the batch, the step or the number of draws before, and no
generator has a state that would have to cross steps.
"""

import torch
from torch import Tensor

__all__ = ["choose", "noise_of", "sample"]

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
"""2**64 divided by the golden ratio, the increment of splitmix64; as int64, which wraps."""


@torch.inference_mode()
def sample(logits: Tensor, temperatures: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """Choose the next token of each row.

    Takes the largest of ``logits + temperature * noise`` with standard Gumbel noise, which draws
    from ``softmax(logits / temperature)`` (the Gumbel-max trick, https://arxiv.org/abs/1411.0030),
    and at temperature 0 is greedy without a branch. Of equal logits any one may win.
    Enqueues on the current stream.

    Args:
        logits: float ``[B, V]``.
        temperatures: float32 ``[B]``, 0 or more.
        seeds: int64 ``[B]``, one per request.
        positions: int64 ``[B]``, where the chosen tokens will stand.

    Returns:
        int64 ``[B]``, below V.
    """
    return choose(logits, temperatures, noise_of(seeds, positions, logits.shape[1]))


@torch.inference_mode()
def choose(logits: Tensor, temperatures: Tensor, noise: Tensor) -> Tensor:
    """Choose like ``sample``, with noise that was made before: float32 ``[B, V]``."""
    return (logits.float() + temperatures[:, None] * noise).argmax(dim=-1)


@torch.inference_mode()
def noise_of(seeds: Tensor, positions: Tensor, vocab: int) -> Tensor:
    """Return standard Gumbel noise for tokens to be chosen, float32 ``[B, vocab]``.

    It needs no logits: who knows the positions early can make it early. Each row is a splitmix64
    sequence. The uniform numbers have 23 bits and half a step added, which float32 holds exactly:
    neither 0 nor 1 comes out, and the noise is always finite.
    """
    keys = _mix(_mix(seeds) ^ positions)
    counters = torch.arange(1, vocab + 1, device=seeds.device) * GOLDEN
    bits = _shift(_mix(keys[:, None] + counters), 41)
    uniform = (bits.float() + 0.5) * 2.0**-23
    return -(-uniform.log()).log()


def _mix(z: Tensor) -> Tensor:
    """Scramble int64 in wrapping arithmetic: a bijection in which each bit reaches all.

    The finaliser of splitmix64 by Sebastiano Vigna, https://prng.di.unimi.it/splitmix64.c, with the
    constants of David Stafford's Mix13.
    """
    z = (z ^ _shift(z, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    z = (z ^ _shift(z, 27)) * (0x94D049BB133111EB - (1 << 64))
    return z ^ _shift(z, 31)


def _shift(z: Tensor, places: int) -> Tensor:
    """Shift int64 to the right as if it had no sign."""
    return (z >> places) & ((1 << (64 - places)) - 1)
