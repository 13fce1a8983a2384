"""What can go wrong with a request."""

from streams.errors import AioSchedError

__all__ = [
    "ConstraintError",
    "EngineBusyError",
    "PromptError",
    "RequestAbortedError",
    "RequestBusyError",
    "RequestFailedError",
]


class PromptError(AioSchedError, ValueError):
    """The prompt cannot be continued by this model."""


class ConstraintError(AioSchedError, ValueError):
    """A constraint that cannot be understood, or that no text meets from here on."""


class EngineBusyError(AioSchedError, RuntimeError):
    """Too many requests wait."""


class RequestBusyError(AioSchedError, RuntimeError):
    """The request has a reader already."""


class RequestAbortedError(AioSchedError, RuntimeError):
    """The request was aborted before its text was complete."""


class RequestFailedError(AioSchedError, RuntimeError):
    """A step that the request was part of failed."""
