"""What can go wrong with memory that crosses steps.

A caller's mistake is a ``ValueError`` or ``TypeError``, a state of a buffer a
``RuntimeError``; all are ``AioSchedError`` like those of ``streams``.
"""

from streams.errors import AioSchedError

__all__ = [
    "CaptureOverflowError",
    "CaptureRowsError",
    "DoubleFreeError",
    "DtypeError",
    "DuplicateSlotError",
    "ForeignSlotError",
    "LeaseClosedError",
    "NoCurrentStreamError",
    "RowNotWrittenError",
    "ShapeError",
    "SlotError",
    "SlotRangeError",
    "SlotsExhaustedError",
    "StagingBusyError",
    "StagingReleasedError",
    "StaleRowError",
    "StaleSlotError",
    "UnknownFieldError",
]


class SlotsExhaustedError(AioSchedError, RuntimeError):
    """Every slot is in use."""


class SlotError(AioSchedError, ValueError):
    """A slot was used in a way that its owner may not use it."""


class StaleSlotError(SlotError):
    """The slot belongs to a later owner by now."""


class DoubleFreeError(SlotError):
    """The slot was given back before."""


class ForeignSlotError(SlotError):
    """The slot was taken from another allocator, or from none."""


class SlotRangeError(SlotError):
    """The buffer has no row for the slot."""


class DuplicateSlotError(SlotError):
    """One call names the same slot twice."""


class UnknownFieldError(AioSchedError, ValueError):
    """The buffer has no such field."""


class ShapeError(AioSchedError, ValueError):
    """A tensor has the wrong shape, or lies on the wrong device."""


class DtypeError(AioSchedError, TypeError):
    """A tensor has the wrong dtype, or a dtype that rows cannot have."""


class RowNotWrittenError(AioSchedError, RuntimeError):
    """Strict mode: a row was read that holds nothing since it was last consumed."""


class StaleRowError(AioSchedError, RuntimeError):
    """Strict mode: a row belongs to another owner than the one who uses it."""


class NoCurrentStreamError(AioSchedError, RuntimeError):
    """Device work was asked for with no stream to put it on."""


class StagingBusyError(AioSchedError, RuntimeError):
    """Every staging slot is claimed, or a copy from it is in flight."""


class StagingReleasedError(AioSchedError, RuntimeError):
    """A staging slot was used after it was uploaded or given back."""


class LeaseClosedError(AioSchedError, RuntimeError):
    """A lease was used after its claim was given up."""


class CaptureOverflowError(AioSchedError, RuntimeError):
    """A batch, or a text, has more rows than can be captured."""


class CaptureRowsError(AioSchedError, RuntimeError):
    """The captured rows of a request are not one for each token that a forward has read."""
