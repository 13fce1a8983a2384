"""Objects at which order passes from one host actor to another: hand-overs and meetings."""

import weakref
from collections import deque
from typing import Protocol

from streams.hazards.order import Clock, HostActor, join

__all__ = ["Hosts", "Meetings", "arrive", "depart", "handoff", "tell_handoffs", "tell_meetings"]

_MAX_KEPT = 256


class Hosts(Protocol):
    """The host's actors, as one checker knows them; each call is made by one of these."""

    def handoff(self, obj: object) -> None:
        """Order who calls this with an object behind all who called it with that one before."""

    def arrive(self, meeting: object) -> None:
        """Bring to a meeting what the caller comes after."""

    def depart(self, meeting: object) -> None:
        """Take from a meeting what all who came there brought."""


class Meetings:
    """What was brought to which object, by identity.

    Where an object cannot be referred to weakly it is kept, or another one could take its
    identity.
    """

    def __init__(self) -> None:
        self._brought: dict[int, tuple[Clock, object]] = {}
        self._kept: deque[int] = deque()  # the identities of what is kept, oldest first

    def __len__(self) -> int:
        return len(self._brought)

    def bring(self, obj: object, actor: HostActor) -> None:
        """Leave at ``obj`` what comes before whatever ``actor`` begins now."""
        identity = id(obj)
        if identity not in self._brought:
            self._brought[identity] = ({}, self._hold(obj))
        join(self._brought[identity][0], actor.release())

    def take(self, obj: object, actor: HostActor) -> None:
        """Order ``actor`` behind all that was brought to ``obj`` so far."""
        if id(obj) in self._brought:
            actor.learn(self._brought[id(obj)][0])

    def _hold(self, obj: object) -> object:
        identity = id(obj)
        try:
            return weakref.ref(obj, lambda _: self._brought.pop(identity, None))
        except TypeError:
            self._kept.append(identity)
            if len(self._kept) > _MAX_KEPT:
                del self._brought[self._kept.popleft()]
            return obj


def handoff(obj: object) -> None:
    """Tell strict hazard checkers that ``obj`` passes from one task to another here.

    For a hand-over in which nobody is woken, such as a queue that was not empty: the giver
    calls it with the object before he gives it away, the taker when he has it. It orders all
    who call it with the same object. To a checker that is not strict it says so of ranks; where
    there are none it does nothing. Of objects that cannot be referred to weakly (tuples, lists,
    numbers) a checker keeps the latest 256 alive, and forgets who called with an older one.
    """
    if _handing:  # the loop hands over some ten times a step, and iterating costs ten times this
        for hosts in tuple(_handing):
            hosts.handoff(obj)


def arrive(meeting: object) -> None:
    """Tell hazard checkers that the caller comes to a collective among ranks.

    Each rank calls it with the same object before it gives its part, and ``depart`` when it has
    the parts of the others. Take a new object for each exchange: at one that is used again the
    second round's arrivals come before the first round's departures, and hide races.

    Without a checker it does nothing. The object should be one that can be referred to weakly,
    see ``handoff``.
    """
    if _meeting:
        for hosts in tuple(_meeting):
            hosts.arrive(meeting)


def depart(meeting: object) -> None:
    """Tell hazard checkers that the caller leaves a collective to which all ranks have come.

    What it does from now on comes after what each of them did before it called ``arrive`` with
    this object: a join, and not only after those who came before it, which is ``handoff``. A
    rank that gives up (its deadline is over, a peer is gone) does not call it.
    """
    if _meeting:
        for hosts in tuple(_meeting):
            hosts.depart(meeting)


def tell_handoffs(hosts: Hosts) -> None:
    """Tell ``hosts`` of hand-overs, as long as it lives."""
    _handing.add(hosts)


def tell_meetings(hosts: Hosts) -> None:
    """Tell ``hosts`` of meetings, as long as it lives."""
    _meeting.add(hosts)


_handing: "weakref.WeakSet[Hosts]" = weakref.WeakSet()
_meeting: "weakref.WeakSet[Hosts]" = weakref.WeakSet()
