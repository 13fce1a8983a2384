"""Who waits for whom on the simulated devices of this process, for a report of a deadlock."""

import itertools
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.simulated.device import SimDevice
    from streams.simulated.queue import Entry, SimQueue

__all__ = ["can_progress", "device_report", "register", "stuck_report", "wait_cycle"]

_numbers = itertools.count()
# Keyed by age, so that reports list devices in one order always.
_live: "weakref.WeakValueDictionary[int, SimDevice]" = weakref.WeakValueDictionary()


def register(device: "SimDevice") -> None:
    """Device only: report this device from now on, as long as it is open."""
    _live[next(_numbers)] = device


def can_progress() -> bool:
    """Whether work on any simulated device will go on by the passing of virtual time alone."""
    return any(device.timeline.is_pending for device in _open_devices())


def stuck_report() -> str:
    """Say what each unfinished operation at the head of a stream waits for.

    Covers all open simulated devices of this process; empty if all have run dry.
    """
    return "\n".join(filter(None, map(device_report, _open_devices())))


def device_report(device: "SimDevice") -> str:
    """Say what each head of one device waits for, and whether they wait in a circle."""
    lines = [f"  {_state(queue.entries[0], queue)}" for queue in _busy(device)]
    if not lines:
        return ""
    if cycle := wait_cycle(device):
        lines.append(f"  they wait in a circle: {' -> '.join(map(repr, cycle))}")
    return "\n".join([f"simulated device (seed {device.seed}):", *lines])


def wait_cycle(device: "SimDevice") -> list[str]:
    """Return the streams that wait for each other in a circle, the first one twice; or []."""
    for queue in _busy(device):
        path: list[SimQueue] = []
        following: SimQueue | None = queue
        while following is not None and following not in path:
            path.append(following)
            following = _next(following)
        if following is queue:
            return [each.entries[0].stream.name for each in (*path, queue)]
    return []


def _open_devices() -> "Iterator[SimDevice]":
    return (device for device in tuple(_live.values()) if not device.is_stopped)


def _busy(device: "SimDevice") -> "list[SimQueue]":
    """The queues with unfinished work, each once."""
    queues = dict.fromkeys(stream.queue for stream in device.sim_streams)
    return [queue for queue in queues if queue.entries]


def _next(queue: "SimQueue") -> "SimQueue | None":
    """The queue that the head of this one waits for, if that has anything to run."""
    from streams.simulated.stream import SimStream

    gate = queue.entries[0].waits_for
    if gate is None or not isinstance(gate.stream, SimStream) or not gate.stream.queue.entries:
        return None
    return gate.stream.queue


def _state(entry: "Entry", queue: "SimQueue") -> str:
    behind = f", {len(queue.entries) - 1} behind it" if len(queue.entries) > 1 else ""
    return f"{entry} {_doing(entry)}{behind}"


def _doing(entry: "Entry") -> str:
    if (gate := entry.waits_for) is not None:
        stream = gate.recorded_on()
        never = "" if gate.number <= stream._issued else ", and nothing was put there yet"
        return (
            f"waits for {gate.label!r} #{gate.number} on {stream.name!r}, "
            f"which has completed {stream.completed} of {stream._issued}{never}"
        )
    return entry.kept_by or "is running"
