"""Other orders in which a step can sample under masks, to compare in virtual time.

Launches that compute nothing, under the names of those of the engine, which say what they cost.
"""

from collections.abc import Callable

from streams.device import Device
from streams.launch import Launch

__all__ = ["in_upstream_order", "masks_before_the_model"]


def _run_decode() -> None:
    """Stand for the model."""


def _sample() -> None:
    """Stand for the sampling of the whole batch."""


def host_copy(sampled: None) -> None:
    """Stand for the copy of the tokens."""


def stage_copy() -> None:
    """Stand for the upload of a table, or of the masks."""


async def in_upstream_order(
    device: Device, num_steps: int, compute_masks: Callable[[], object]
) -> None:
    """Launch the model, wait for the step before, find the masks, sample for the whole batch.

    The order of the engine that this re-creates; see steps 4 to 8 in section A of the reference.
    """
    schedule, forward, copy = (device.stream(name) for name in ("schedule", "forward", "copy"))
    before: Launch[None] | None = None
    for _ in range(num_steps):
        schedule.launch(stage_copy)
        forward.wait_stream(schedule)
        forward.launch(_run_decode)
        if before is not None:
            await before
        compute_masks()
        schedule.launch(stage_copy)
        forward.wait_stream(schedule)
        before = copy.launch(host_copy, forward.launch(_sample))
    if before is not None:
        await before


async def masks_before_the_model(
    device: Device, num_steps: int, compute_masks: Callable[[], object]
) -> None:
    """Wait for the step before, find the masks, launch the model and the sampling behind it."""
    schedule, forward, copy = (device.stream(name) for name in ("schedule", "forward", "copy"))
    for _ in range(num_steps):
        compute_masks()
        schedule.launch(stage_copy)
        forward.wait_stream(schedule)
        forward.launch(_run_decode)
        await copy.launch(host_copy, forward.launch(_sample))
