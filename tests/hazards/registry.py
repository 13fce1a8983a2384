"""All miniatures.

Not here, because the simulated device has nothing to go wrong there: D10 as handles that two
streams share, D15 to D20, and what needs processes or ranks (A9, A11, A12, R1 to R7).
"""

from tests.hazards import cancellation, hosts, memory, progress, tables
from tests.hazards.miniature import Miniature

__all__ = ["MINIATURES"]

MINIATURES: tuple[Miniature, ...] = tuple(
    miniature
    for family in (tables, memory, cancellation, hosts, progress)
    for miniature in family.MINIATURES
)
