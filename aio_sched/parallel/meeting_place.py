"""The store through which ranks find each other: who joins, who is missing, who rings.

One process keeps a small table, and the others ask it over a socket. Reads may block for good
when that process is stopped, so they belong to threads; writes are sent and not answered.
"""

import os
import time
from collections.abc import Sequence
from datetime import timedelta

from torch.distributed import (  # type: ignore[attr-defined]  # documented, not re-exported
    PrefixStore,
    Store,
    TCPStore,
)

from aio_sched.parallel.errors import RankLostError, RankMismatchError
from aio_sched.parallel.exchange import named

__all__ = ["MeetingPlace"]

_POLL_S = 0.01
# Nobody waits longer, and the store takes no "for ever".
_FOR_EVER = timedelta(days=365)


class MeetingPlace:
    """The table, as one rank sees it.

    Methods that read block; call them in a thread. Those that only write do not.

    Args:
        host: name or address of the machine of the process that keeps the table.
        port: where it listens.
        name: of the group; groups of different names do not meet.
        keeps: whether this process keeps the table.
        timeout_s: how long to try to connect, and to wait for an answer.

    Raises:
        RuntimeError: nobody listens there, or the port is taken.
    """

    def __init__(self, host: str, port: int, name: str, *, keeps: bool, timeout_s: float) -> None:
        self._address = (host, port)
        self._timeout_s = timeout_s
        # Restarted workers of torchrun meet the table of their former lives.
        life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._prefix = f"aio-sched/{name}/{life}"
        # A client serves one call at a time: one that hangs in a read must not hold up writes.
        # Each costs a look-up of names, which may take seconds, so there are no more than needed.
        self._writer = self._connect(keeps=keeps)
        self._reader = self._connect()
        self._listener: TCPStore | None = None

    def __repr__(self) -> str:
        return f"<MeetingPlace {self._prefix!r} at {self._address[0]}:{self._address[1]}>"

    def link_store(self, epoch: int) -> Store:
        """Return where the process group of an epoch connects; used by no other."""
        return PrefixStore(f"{self._prefix}/{epoch}/link", self._reader)

    # Joining ----------------------------------------------------------------

    def join(self, rank: int, size: int, until_s: float) -> None:
        """Wait until all ranks are here, and believe in the same size.

        Raises:
            RankLostError: some did not come by ``until_s``, a time of ``time.monotonic``.
            RankMismatchError: a rank is here twice, or they do not agree on the size.
        """
        mine = f"{size} {os.getpid()} {id(self)}"
        if self._reader.compare_set(self._key("join", rank), "", mine).decode() != mine:
            raise RankMismatchError(
                f"rank {rank} of the group at {self._address[0]}:{self._address[1]} is here "
                "already; give each process a rank of its own, and each group a name",
                (rank,),
            )
        while True:
            came = self._who("join", size)
            said = {
                other: int(self._reader.get(self._key("join", other)).split()[0]) for other in came
            }
            odd = tuple(other for other in came if said[other] != size)
            if odd or len(came) == size or time.monotonic() >= until_s:
                break
            time.sleep(_POLL_S)
        if odd:
            raise RankMismatchError(
                f"rank {rank} was told of {size} ranks, but {named(odd)} of "
                f"{', '.join(str(said[other]) for other in odd)}; start all with one world size",
                odd,
            )
        missing = tuple(other for other in range(size) if other not in came)
        if missing:
            raise RankLostError(
                f"{named(missing)} of {size} did not join; start as many processes as the group "
                "has ranks, or allow more time",
                missing,
            )

    # After a failure ----------------------------------------------------------

    def say_here(self, epoch: int, number: int, rank: int) -> None:
        """Say that ``rank`` runs, though its exchange has failed."""
        self._writer.set(self._key(epoch, number, "here", rank), "1")

    def missing(self, epoch: int, number: int, size: int, until_s: float) -> tuple[int, ...]:
        """Wait until every rank said that it is here, or ``until_s``; return who did not."""
        while len(here := self._who(f"{epoch}/{number}/here", size)) < size:
            if time.monotonic() >= until_s:
                break
            time.sleep(_POLL_S)
        return tuple(rank for rank in range(size) if rank not in here)

    def say_gone(self, epoch: int, rank: int) -> None:
        """Say that ``rank`` of ``epoch`` has left: nobody shall wait for it to rebuild."""
        self._writer.set(self._key(epoch, "gone", rank), "1")

    def rally(self, former: int, epoch: int, rank: int, size: int, until_s: float) -> list[int]:
        """Wait for the ranks of ``former`` that begin ``epoch``; return them by number there.

        All are told the same: it is decided once, by whoever sees first that all are here who
        have not left, or that its time is over.
        """
        key = f"{epoch}/came"
        self._writer.set(self._key(key, rank), "1")
        decided = self._key(epoch, "members")
        while True:
            if self._reader.check([decided]):
                break
            came = sorted({rank, *self._who(key, size)})  # what was sent may not be there yet
            settled = {*came, *self._who(f"{former}/gone", size)}
            if len(settled) == size or time.monotonic() >= until_s:
                self._reader.compare_set(decided, "", ",".join(map(str, came)))
                break
            time.sleep(_POLL_S)
        return [int(member) for member in self._reader.get(decided).decode().split(",")]

    # The bell -----------------------------------------------------------------

    def ring(self, epoch: int, number: int, ranks: Sequence[int]) -> None:
        """Wake ``ranks`` if they listen after exchange ``number``, now or later."""
        for rank in ranks:
            self._writer.set(self._key(epoch, number, "bell", rank), "1")

    def listen(self, epoch: int, number: int, rank: int, silent: Sequence[tuple[int, int]]) -> None:
        """Block until somebody rings for ``rank`` after exchange ``number``.

        Bells for it after the ``silent`` ones, by epoch and number, are taken off the table:
        nobody rings them any more.
        """
        if self._listener is None:
            self._listener = self._connect()
        for former in silent:
            self._listener.delete_key(self._key(*former, "bell", rank))
        self._listener.wait([self._key(epoch, number, "bell", rank)], _FOR_EVER)

    def _who(self, key: str, size: int) -> list[int]:
        return [rank for rank in range(size) if self._reader.check([self._key(key, rank)])]

    def _key(self, *parts: object) -> str:
        return "/".join((self._prefix, *map(str, parts)))

    def _connect(self, *, keeps: bool = False) -> TCPStore:
        host, port = self._address
        return TCPStore(
            host,
            port,
            is_master=keeps,
            timeout=timedelta(seconds=self._timeout_s),
            wait_for_workers=False,
            multi_tenant=keeps,
        )
