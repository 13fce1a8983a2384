"""Draws runs until a fault has struck often enough: not every site is passed in every run."""

from collections.abc import Callable

__all__ = ["strike_until"]

MAX_SEEDS_PER_STRIKE = 20


def strike_until(num_wanted: int, strikes: Callable[[int], bool]) -> None:
    """Run seeds until the fault took effect in ``num_wanted`` of them.

    Args:
        num_wanted: runs with the fault in effect.
        strikes: runs a seed, checks what happened, and says whether the fault took effect.
    """
    num_struck, num_seeds = 0, num_wanted * MAX_SEEDS_PER_STRIKE
    for seed in range(num_seeds):
        num_struck += strikes(seed)
        if num_struck == num_wanted:
            return
    raise AssertionError(f"struck in {num_struck} of {num_seeds} runs, {num_wanted} are wanted")
