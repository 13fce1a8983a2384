"""What can go wrong between the two sides."""

from streams.errors import AioSchedError

__all__ = [
    "LinkClosedError",
    "LinkProtocolError",
    "PeerLostError",
    "PeerMismatchError",
    "RemoteRequestError",
]


class LinkClosedError(AioSchedError, RuntimeError):
    """This end of the link was closed."""


class PeerLostError(AioSchedError, RuntimeError):
    """The other side is gone, cannot be reached, or does not answer in time."""


class LinkProtocolError(AioSchedError, RuntimeError):
    """The other side sent what it may not send."""


class PeerMismatchError(AioSchedError, ValueError):
    """The two sides do not belong together: another model, or another version."""


class RemoteRequestError(AioSchedError, RuntimeError):
    """A request failed on the side that decodes; the message says what that side knows."""
