"""``BatchSync``: what all ranks run in a step, agreed upon in one exchange."""

import zlib

from aio_sched.parallel.consensus import RankConsensus
from aio_sched.parallel.errors import RankMismatchError
from aio_sched.parallel.global_batch import GlobalBatch, RankState, SyncPolicy, complaint, merge
from aio_sched.parallel.group import RankGroup

__all__ = ["BatchSync"]

_KIND = "batch"


class BatchSync:
    """Gathers what each rank would run, once per step, and decides for all of them.

    Args:
        group: of the ranks.
        policy: the same on every rank.
        consensus: what the ranks compare along.
        settings: further settings that must be the same on every rank; their ``repr`` counts.

    Attributes:
        num_passes: exchanges that came about in this epoch; the same on every rank.
    """

    def __init__(
        self,
        group: RankGroup,
        policy: SyncPolicy | None = None,
        *,
        consensus: RankConsensus | None = None,
        settings: object = None,
    ) -> None:
        self.group = group
        self.policy = SyncPolicy() if policy is None else policy
        self.consensus = consensus or RankConsensus(group, enabled=False)
        self.num_passes = 0
        self._epoch = group.epoch
        self._settings = settings
        self._fingerprint = zlib.crc32(repr((self.policy, settings)).encode())
        self._former: GlobalBatch | None = None

    async def gather(self, state: RankState) -> GlobalBatch:
        """State what this rank would run, and return what holds for all.

        Raises:
            RankMismatchError: a rank has other settings, states what cannot be, or has decided
                differently before; every rank raises it.
            Exception: what ``gather_info`` raises.
        """
        self._follow_epoch()
        words = (*state, self._fingerprint, self.consensus.digest)
        rows = await self.group.gather_info(_KIND, words)
        self._check_settings([row[-2] for row in rows])
        await self.consensus.check([row[-1] for row in rows])
        states = [RankState(*row[:-2]) for row in rows]
        _check_states(states)
        self._former = merged = merge(states, self.policy, self._former)
        self.consensus.note("batch", *merged.values())
        self.num_passes += 1
        self.consensus.begin(self.num_passes)
        return merged

    def _follow_epoch(self) -> None:
        if self._epoch != self.group.epoch:
            self._epoch, self._former, self.num_passes = self.group.epoch, None, 0
            self.consensus.restart()

    def _check_settings(self, fingerprints: list[int]) -> None:
        odd = tuple(rank for rank, each in enumerate(fingerprints) if each != fingerprints[0])
        if odd:
            raise RankMismatchError(
                f"ranks {odd} have other settings than rank 0; rank {self.group.rank} has "
                f"{self.policy} and {self._settings}; give all ranks the same",
                odd,
            )


def _check_states(states: list[RankState]) -> None:
    for rank, state in enumerate(states):
        if wrong := complaint(state):
            raise RankMismatchError(
                f"rank {rank} states what cannot be: {wrong} ({state}); run the same version of "
                "aio-sched on every rank",
                (rank,),
            )
