"""What a waiter is told that goes on without its event."""

from typing import TYPE_CHECKING

from streams.errors import DeadlineError, DeviceClosedError, DeviceLostError

if TYPE_CHECKING:
    from streams.bridge.lane import Waiter
    from streams.stream import Stream

__all__ = ["deadline_errors", "own_error"]

_NUM_NAMED = 3
_MAX_NAMED = 5000


def own_error(error: BaseException) -> BaseException:
    """Return what one of many waiters shall raise for ``error``.

    The library's own errors are copied: one instance raised in many tasks would mix up
    their tracebacks. Others are shared, as nobody knows how to copy them.
    """
    if isinstance(error, StopIteration):  # a future refuses it
        wrapper = RuntimeError(f"asking the device raised {error!r}")
        wrapper.__cause__ = error
        return wrapper
    if type(error) not in (DeviceLostError, DeviceClosedError):
        return error
    own = type(error)(*error.args)
    own.__cause__ = error.__cause__
    return own


def deadline_errors(waiters: "list[Waiter]", stream: "Stream") -> "list[DeadlineError]":
    """Say for each of ``waiters`` which wait ran out of time, and what was queued up to it.

    Args:
        waiters: who waited for ``stream``, in the order of their events.
        stream: whose queue to name.
    """
    queue: list[str] = []
    named_upto, num_named = -1, 0
    errors = []
    for waiter in waiters:
        number = waiter.event.number
        # Naming a long queue anew for each of many waiters would stop the loop for seconds.
        # What is queued up to a lower number is the beginning of what is queued up to this.
        if number != named_upto and num_named < _MAX_NAMED:
            queue, named_upto = stream.queue_before(number), number
            num_named += len(queue)
        errors.append(_deadline_error(waiter, stream, queue, len(queue) + number - named_upto))
    return errors


def _deadline_error(
    waiter: "Waiter", stream: "Stream", queue: list[str], num_queued: int
) -> DeadlineError:
    event = waiter.event
    of = f", recorded by step {event.tag.step} in stage {event.tag.stage!r}," if event.tag else ""
    return DeadlineError(
        f"event {event.label!r} (#{event.number}) on stream {stream.name!r} of device "
        f"{stream.device.name}{of} did not complete within {waiter.timeout_s} s; queued up to "
        f"it: {_summary(queue, num_queued)}; allow more time if the work is slow, or look for "
        "a launch that hangs or a wait that nothing satisfies"
    )


def _summary(queue: list[str], num_queued: int) -> str:
    named = queue[: min(_NUM_NAMED, num_queued)]
    more = num_queued - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "") if named else "nothing"
