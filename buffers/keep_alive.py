"""Memory that is returned by completion: by the device event that ends its last use.

Ordering device streams keeps no allocation alive, and a coroutine's ``finally`` runs
when the coroutine ends, which under a cancellation is before the device does. A shield
around it does not help: a native ``Task.cancel`` cuts through anyio's. So a coroutine
only ever gives up its claim, and what it claimed comes back later.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from torch import Tensor

from buffers.access import Access
from buffers.errors import LeaseClosedError
from streams.device import Device
from streams.errors import DeviceClosedError, DeviceLostError
from streams.event import Event
from streams.launch import Launch
from streams.log import get_logger
from streams.monitor import freed
from streams.stream import Stream

__all__ = ["KeepAlive", "Lease"]

log = get_logger("keep_alive")

T = TypeVar("T")
Last = TypeVar("Last", bound=Event | Launch[Any])


class _Held(NamedTuple):
    """What one event releases; compared by the first two, which are unique."""

    number: int
    order: int
    event: Event
    later: tuple[Event, ...]  # on other streams; they must complete as well
    objects: tuple[object, ...]
    release: Callable[[], object] | None


class KeepAlive:
    """Holds memory and slots until the device has made its last use of them.

    The owner calls ``collect`` regularly, once per step; nothing is released at any
    other time. When the device is lost or closed, everything that waits for it is
    released by the next ``collect``: nothing can be enqueued there any more, so
    nobody can overwrite what a last operation may still be reading. Where asking the
    device raises anything else, it stays held, and the log says so. Calls must come
    from one thread.

    Args:
        device: whose monitors are told what leases that say what they cover give back.
    """

    def __init__(self, device: Device | None = None) -> None:
        self.device = device
        self._held: dict[Stream, list[_Held]] = {}  # a heap for each stream
        self._order = itertools.count()
        self.num_claimed = 0

    def __len__(self) -> int:
        """How much was given up or held and is not released yet."""
        return sum(map(len, self._held.values()))

    def __repr__(self) -> str:
        return f"<KeepAlive {len(self)} held, {self.num_claimed} claimed>"

    def hold(self, until: Event, *objects: object) -> None:
        """Keep ``objects`` alive until an event has completed.

        Needed for memory that a launch uses without having it as an argument: made in
        one launch and used by raw pointer in another, say. Arguments of a launch
        live until its end anyway.

        Raises:
            EventNotRecordedError: nothing ever recorded the event.
        """
        self._add((until,), objects, None)

    def release_at(self, until: Event, release: Callable[[], object]) -> None:
        """Call ``release`` from ``collect`` once an event has completed.

        Events of one stream release in order; several releases at one event come in
        the order of these calls.

        Raises:
            EventNotRecordedError: nothing ever recorded the event.
        """
        self._add((until,), (), release)

    def lease(
        self, thing: T, give_back: Callable[[T], object], *, covers: Iterable[Tensor | Access] = ()
    ) -> "Lease[T]":
        """Claim ``thing`` for a ``with`` block, and return it by completion.

        Args:
            thing: a slot, say.
            give_back: called with it, once, when the block has been left and the last
                use that was noted on the lease has completed.
            covers: memory that others may write once it is given back. A hazard checker then
                reports a use that nobody noted; without it, it knows of no memory here.

        Raises:
            ValueError: it covers memory, and this ``KeepAlive`` was made without a device.
        """
        covers = tuple(covers)
        if covers and self.device is None:
            raise ValueError(
                f"the lease on {thing!r} covers memory, and nobody would be told of it; make the "
                "KeepAlive with its device"
            )
        return Lease(self, thing, give_back, covers)

    def collect(self) -> int:
        """Release what has completed; never waits.

        Returns:
            How many were released.

        Raises:
            Exception: what a release callback raised, a group if several did; the
                others have been released all the same.
        """
        errors: list[Exception] = []
        num_released = 0
        for heap in tuple(self._held.values()):
            while heap and _is_over(heap[0].event):
                num_released += self._release(heapq.heappop(heap), errors)
        self._held = {stream: heap for stream, heap in self._held.items() if heap}
        if len(errors) > 1:
            raise ExceptionGroup(f"{len(errors)} releases failed", errors)
        if errors:
            raise errors[0]
        return num_released

    async def drained(self, timeout: float | None = None) -> None:
        """Suspend until everything that is held now or meanwhile has been released.

        Claims that nobody has given up are not waited for.

        Args:
            timeout: seconds to wait at most; None waits until cancelled.

        Raises:
            DeadlineError: something is still in use; names its event and the queue.
            Exception: what a release callback raised.
        """
        clock = asyncio.get_running_loop().time
        deadline = None if timeout is None else clock() + timeout
        self.collect()
        while self._held:
            last = max(next(iter(self._held.values())))
            left = None if deadline is None else max(0.0, deadline - clock())
            # Lost or closed counts as the end of use, see the class; collect() acts on it.
            with suppress(DeviceLostError, DeviceClosedError):
                await last.event.reached(left)
            self.collect()

    def _add(
        self,
        events: tuple[Event, ...],
        objects: tuple[object, ...],
        release: Callable[[], object] | None,
    ) -> None:
        first, *later = events
        held = _Held(first.number, next(self._order), first, tuple(later), objects, release)
        heapq.heappush(self._held.setdefault(first.recorded_on(), []), held)

    def _release(self, held: _Held, errors: list[Exception]) -> int:
        # WAR: uses on other streams may still read what the next owner writes.
        later = tuple(event for event in held.later if not _is_over(event))
        if later:
            self._add(later, held.objects, held.release)
            return 0
        if held.release is not None:
            try:
                held.release()
            except Exception as error:  # the others must not suffer; collect() raises it
                errors.append(error)
        return 1


class Lease(Generic[T]):
    """A claim on something that the device uses; leaving the block gives it up.

    ``use`` notes each last use. After the block (or ``close``), the thing is given
    back by the first ``KeepAlive.collect`` that finds all noted uses completed, in
    the block's end itself if there were none. That is so also if the block ends by
    anyio cancellation or a native ``Task.cancel``: there is nothing to shield.

    Attributes:
        thing: what is claimed.
    """

    def __init__(
        self,
        owner: KeepAlive,
        thing: T,
        give_back: Callable[[T], object],
        covers: tuple[Tensor | Access, ...] = (),
    ) -> None:
        self.thing = thing
        self._covers = covers
        self._owner = owner
        self._give_back = give_back
        self._last: dict[Stream, Event] = {}
        self._is_closed = False
        owner.num_claimed += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def use(self, last: Last) -> Last:
        """Note that the device uses the thing until an event or launch has completed.

        Call it in the same breath as the launch, with no ``await`` between:
        ``launch = lease.use(stream.launch(...))``.

        Returns:
            What it was given.

        Raises:
            LeaseClosedError: the claim was given up.
            EventNotRecordedError: nothing ever recorded the event.
        """
        if self._is_closed:
            raise LeaseClosedError(
                f"the lease on {self.thing!r} was given up, and somebody else may have it; "
                "enqueue its uses inside the with block"
            )
        event = last.event if isinstance(last, Launch) else last
        stream = event.recorded_on()
        former = self._last.get(stream)
        if former is None or former.number < event.number:
            self._last[stream] = event
        return last

    def close(self) -> None:
        """Give up the claim; doing it twice does no harm."""
        if self._is_closed:
            return
        self._is_closed = True
        self._owner.num_claimed -= 1
        if self._last:
            # WAR: the next owner writes what the noted uses may still read.
            self._owner._add(tuple(self._last.values()), (), self._return)
        else:
            self._return()

    def _return(self) -> None:
        if self._covers and self._owner.device is not None:
            freed(self._owner.device, self._covers, "the end of a lease")
        self._give_back(self.thing)


def _is_over(event: Event) -> bool:
    """Whether the device will not reach for what ``event`` ends any more."""
    try:
        # WAR: the next owner writes what a use that has not completed may still read.
        return event.query()
    except (DeviceLostError, DeviceClosedError):
        return True
    except Exception as error:
        # Nobody here waits for it, and other releases must not suffer. Held until it is known:
        # whoever awaits the event is told.
        log.warning("query_failed", held_until=repr(event), error=repr(error))
        return False
