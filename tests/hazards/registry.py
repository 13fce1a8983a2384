"""All miniatures.

Not here, because the simulated device has nothing to go wrong there: D10 as handles that two
streams share, D15 to D20, and what needs processes (A9, A11, A12, R2, R7).
"""

from tests.hazards import cancellation, hosts, memory, progress, ranks, tables
from tests.hazards.miniature import Miniature

__all__ = ["MINIATURES"]

MINIATURES: tuple[Miniature, ...] = tuple(
    miniature
    for family in (tables, memory, cancellation, hosts, progress, ranks)
    for miniature in family.MINIATURES
)
