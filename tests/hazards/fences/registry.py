"""For each fence of the library: a program that needs it, or why it is redundant there."""

from tests.hazards.fences import constrained, core, disaggregated, experts, speculative
from tests.hazards.fences.entry import Fence

__all__ = ["FENCES"]

# A part of the library that brings fences has a module here, with its programs.
FENCES: tuple[Fence, ...] = tuple(
    fence
    for part in (constrained, core, disaggregated, experts, speculative)
    for fence in part.FENCES
)
