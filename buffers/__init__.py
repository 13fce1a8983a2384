"""Memory that crosses steps; knows device streams, not requests.

slots.py        ``SlotAllocator``: who owns which row
relay.py        ``RelayBuffer``: device rows that carry results to the next step
host_mirror.py  ``HostMirror``: the host's copy of them, over a stream of its own
staging.py      ``StagingRing``: host memory that copies to the device read from
transfer.py     ``copy_to_host``: copies that never make the host wait
capture.py      ``CaptureCache``: which experts each layer chose; captured_rows.py: on the host
keep_alive.py   ``KeepAlive``: memory and slots returned by completion
access.py       ``Access``: what a launch says that it reads and writes
errors.py       what can go wrong

Behind the relay:

fields.py       what rows hold
rows.py         which rows a call names
row_memory.py   the rows on the device, and the torch work on them
row_ledger.py   who used each row last, and strict mode's rules
row_order.py    launches ordered behind the other uses of their rows

Imports ``streams`` only. Users import from ``aio_sched``.
"""

from buffers.access import Access
from buffers.capture import CaptureCache, CaptureShape
from buffers.captured_rows import Captured, CapturedRows
from buffers.errors import (
    CaptureOverflowError,
    CaptureRowsError,
    DoubleFreeError,
    DtypeError,
    DuplicateSlotError,
    ForeignSlotError,
    LeaseClosedError,
    NoCurrentStreamError,
    RowNotWrittenError,
    ShapeError,
    SlotError,
    SlotRangeError,
    SlotsExhaustedError,
    StagingBusyError,
    StagingReleasedError,
    StaleRowError,
    StaleSlotError,
    UnknownFieldError,
)
from buffers.fields import FieldSpec
from buffers.host_mirror import HostMirror, HostValues
from buffers.keep_alive import KeepAlive, Lease
from buffers.relay import RelayBuffer
from buffers.rows import RowUse, Slots
from buffers.slots import PADDING, Slot, SlotAllocator
from buffers.staging import StagingRing, StagingSlot
from buffers.transfer import copy_to_host

__all__ = [
    "PADDING",
    "Access",
    "CaptureCache",
    "CaptureOverflowError",
    "CaptureRowsError",
    "CaptureShape",
    "Captured",
    "CapturedRows",
    "DoubleFreeError",
    "DtypeError",
    "DuplicateSlotError",
    "FieldSpec",
    "ForeignSlotError",
    "HostMirror",
    "HostValues",
    "KeepAlive",
    "Lease",
    "LeaseClosedError",
    "NoCurrentStreamError",
    "RelayBuffer",
    "RowNotWrittenError",
    "RowUse",
    "ShapeError",
    "Slot",
    "SlotAllocator",
    "SlotError",
    "SlotRangeError",
    "Slots",
    "SlotsExhaustedError",
    "StagingBusyError",
    "StagingReleasedError",
    "StagingRing",
    "StagingSlot",
    "StaleRowError",
    "StaleSlotError",
    "UnknownFieldError",
    "copy_to_host",
]

__aio_sched__ = "0.1.0"
