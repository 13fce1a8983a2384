"""What can go wrong with drafts."""

from streams.errors import AioSchedError

__all__ = ["DraftModelError", "StalePlanEventError"]


class DraftModelError(AioSchedError, ValueError):
    """The draft model does not go with the target model."""


class StalePlanEventError(AioSchedError, RuntimeError):
    """Strict mode: the event that a plan was to wait for is an earlier step's."""
