"""What a launch says that it reads and writes; the hazard checker knows it by this."""

from streams.hazards.access import Access

__all__ = ["Access"]
