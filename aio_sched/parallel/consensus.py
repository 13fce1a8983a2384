"""``RankConsensus``: do all ranks decide the same? And if not, who was the first not to?"""

from collections.abc import Sequence

from aio_sched.parallel.decision_log import DecisionLog, Difference, first_difference
from aio_sched.parallel.errors import RankMismatchError
from aio_sched.parallel.group import RankGroup

__all__ = ["RankConsensus", "RankDivergedError"]

_KIND = "consensus"


class RankDivergedError(RankMismatchError):
    """Ranks have decided differently from the same gathered data.

    Attributes:
        ranks: those in the minority.
        step: in which they first did, as this rank counts; None if that is not known any more.
    """

    def __init__(self, message: str, ranks: tuple[int, ...], step: int | None) -> None:
        super().__init__(message, ranks)
        self.step = step


class RankConsensus:
    """Folds the decisions of a rank into 64 bits, which travel in a frame that is sent anyway.

    Whoever gathers states ``digest`` along, and gives what all ranks stated to ``check``. Only
    a mismatch costs an exchange of its own, in which the ranks compare their latest decisions.

    Args:
        group: of the ranks.
        enabled: whether to check; the same on every rank.
    """

    def __init__(self, group: RankGroup, *, enabled: bool = True) -> None:
        self.group = group
        self.enabled = enabled
        self._log = DecisionLog()

    @property
    def digest(self) -> int:
        """What to state: never 0, and always 0 if nothing is checked."""
        return self._log.digest if self.enabled else 0

    def begin(self, step: int) -> None:
        """Let decisions belong to ``step`` from now on."""
        self._log.step = step

    def note(self, name: str, *values: int) -> None:
        """Fold in a decision that all ranks must have taken alike."""
        if self.enabled:
            self._log.note(name, *values)

    def restart(self) -> None:
        """Forget all: the group was rebuilt, and its ranks may have seen different ends."""
        self._log = DecisionLog()

    async def check(self, digests: Sequence[int]) -> None:
        """Compare what all ranks stated; makes an exchange only if they differ.

        Raises:
            RankDivergedError: they decided differently; names the first step and ranks.
            RankMismatchError: only some ranks check.
            Exception: what ``gather_info`` raises.
        """
        silent = tuple(rank for rank, digest in enumerate(digests) if not digest)
        if silent and len(silent) < len(digests):
            raise RankMismatchError(
                f"ranks {silent} do not check what they decide and the others do; give rank_check "
                "the same value on every rank",
                silent,
            )
        if len(set(digests)) > 1:
            # Every rank sees that the digests differ, so every rank makes this exchange.
            rows = await self.group.gather_info(_KIND, self._log.row())
            raise self._diverged(first_difference(rows))

    def _diverged(self, found: Difference | None) -> RankDivergedError:
        if found is None:
            return RankDivergedError(
                "ranks stated different digests of the same decisions; report this", (), None
            )
        noted = self._log.at(found.number)
        step = self._log.step if noted is None else noted.step
        said = "nothing" if noted is None else noted.text
        since = "first" if found.is_first else "at the latest"
        named = ", ".join(map(str, found.ranks))
        return RankDivergedError(
            f"rank {named} decided differently from the others, {since} in step {step}: rank "
            f"{self.group.rank} decided {said}; decide by gathered data only, with the same "
            "settings on every rank",
            found.ranks,
            step,
        )
