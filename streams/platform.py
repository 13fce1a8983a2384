"""Whose streams a device has, and what it can do beyond streams and events."""

import enum
from dataclasses import dataclass

__all__ = ["Capabilities", "Platform"]


class Platform(enum.Enum):
    """Whose streams these are; policies choose their defaults by it."""

    CUDA = "cuda"
    ROCM = "rocm"
    XPU = "xpu"
    MPS = "mps"
    CPU = "cpu"
    SIM = "sim"
    OTHER = "other"


@dataclass(frozen=True)
class Capabilities:
    """What a device can do beyond streams and events.

    Attributes:
        private_d2h: copies to the host may run on a stream of their own that
            inherits no barrier of the schedule stream.
        pinned_memory: host memory must be page-locked for copies to be
            asynchronous.
        graph_capture: work can be captured into a graph and replayed.
        device_timing: finished launches report how long the device ran them.
    """

    private_d2h: bool = False
    pinned_memory: bool = False
    graph_capture: bool = False
    device_timing: bool = False
