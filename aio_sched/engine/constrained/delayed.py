"""Delayed sampling: for requests whose mask of token n needs token n-1 on the host.

A step does not sample such a request's next token behind its model, because nobody knows the mask
yet; it keeps the logits. The next step begins with the sampling, its model reads the token, and the
host gets it over a private stream while the model runs. So the host advances the automata and
computes the masks of step n+1 beside the model of step n: the sampling is delayed, never the
forward, and requests without a constraint sample in their own step as ever.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aio_sched.engine.model import EOS
from aio_sched.engine.requests import Request
from aio_sched.engine.sampling import sample
from aio_sched.engine.table import StepTable
from aio_sched.step import Step
from buffers.fields import FieldSpec
from buffers.host_mirror import HostMirror, HostValues
from buffers.relay import RelayBuffer
from buffers.staging import StagingRing
from streams.device import Device
from streams.launch import Launch

__all__ = ["KEPT_LOGITS", "Delayed", "DelayedSampling", "advance"]

NUM_TOKENS = 256

KEPT_LOGITS = {"logits": FieldSpec(torch.float32, (NUM_TOKENS,))}
"""The field of the relay in which a step keeps what the next one samples from."""


class Delayed:
    """Tokens that a step samples before its model, on their way to the host.

    Attributes:
        requests: in the order of the tokens.
        is_settled: whether the requests were given them, by whoever came first.
    """

    def __init__(self, requests: tuple[Request, ...], values: HostValues) -> None:
        self.requests = requests
        self.is_settled = False
        self._values = values

    async def settle(self, timeout_s: float | None = None) -> list[tuple[Request, int]]:
        """Wait for the tokens, and return them to the first who asks; nothing to later ones.

        Raises:
            DeadlineError: they did not come in time.
            Exception: why they could not be sampled.
        """
        values = await self._values.wait(timeout_s)
        assert values is not None, "the mirror is one that pulls"
        if self.is_settled:
            return []
        self.is_settled = True
        return list(zip(self.requests, values["tokens"].tolist(), strict=True))


class DelayedSampling:
    """What a pipeline of requests adds to its steps for those that have a guide.

    Args:
        device: where the relay is.
        relay: has the fields ``tokens`` and ``KEPT_LOGITS``.
        num_rows: rows of a decode step.
        depth: steps that may be in flight.

    Attributes:
        newest: the tokens of the latest step that had any.
    """

    def __init__(self, device: Device, relay: RelayBuffer, num_rows: int, *, depth: int) -> None:
        self.newest: Delayed | None = None
        self._relay = relay
        self._num_rows = num_rows
        # One upload a step: a block for each step in flight and one never run out.
        self._staging = StagingRing(
            device, (num_rows, NUM_TOKENS), torch.uint8, depth=depth + 1, name="masks"
        )
        self._mirror: HostMirror | None = None
        self._kept_by: dict[int, Launch[Any]] = {}

    def must_settle(self, requests: Sequence[Request]) -> bool:
        """Whether the masks of these requests need tokens that nobody has taken yet."""
        newest = self.newest
        return newest is not None and not newest.is_settled and _are_guided(requests)

    def upload(self, step: Step, requests: Sequence[Request]) -> Launch[Tensor] | None:
        """Enqueue the copy of the masks on the schedule stream; None if nobody needs one.

        Args:
            step: in prepare.
            requests: by row of the decode.

        Returns:
            A launch that gives uint8 ``[num_rows, 256]``, not 0 where a token is allowed.
        """
        if not _are_guided(requests):
            return None
        free = bytes(NUM_TOKENS)
        rows = [free if each.guide is None else each.guide.allowed for each in requests]
        rows.extend([free] * (self._num_rows - len(rows)))
        masks = torch.frombuffer(bytearray().join(rows), dtype=torch.uint8)
        return self._staging.upload(step.schedule_stream, masks.view(self._num_rows, NUM_TOKENS))

    def sample(
        self, step: Step, requests: Sequence[Request], table: Launch[Tensor], masks: Launch[Tensor]
    ) -> Delayed:
        """Enqueue the sampling on the current stream, and its tokens' way to the host.

        Called in forward, before the model: the tokens are in the relay for whatever follows on
        this stream. The copy to the host has a stream of its own and waits for the sampling only.
        """
        guided = tuple(request for request in requests if request.guide is not None)
        slots = [request.slot for request in guided if request.slot is not None]
        # As arguments: if a launch failed that was to keep the logits, so does the sampling.
        kept_by = list(dict.fromkeys(self._kept_by[slot.index] for slot in slots))
        uses = (self._relay.gathers(slots, "logits"), self._relay.publishes(slots, "tokens"))
        # RAW: sampling reads the logits that the model has kept in the step before, and the model
        # the tokens that are sampled here; one stream, FIFO.
        step.watch(self._relay.launch(self._sample, table, masks, kept_by, uses=uses))
        if self._mirror is None:
            self._mirror = HostMirror(self._relay, ["tokens"])
        values = self._mirror.pull(slots)
        assert values.launch is not None, "this mirror pulls"
        # The slot is free with copy_done, which therefore stands for the pull as well.
        step.watch(values.launch)
        self.newest = Delayed(guided, values)
        return self.newest

    def kept(self, requests: Sequence[Request], launch: Launch[Any]) -> None:
        """Note which launch keeps the logits of its requests, for their next sampling."""
        for request in requests:
            if request.guide is not None and request.slot is not None:
                self._kept_by[request.slot.index] = launch

    def keep(self, table: StepTable, logits: Tensor) -> None:
        """Inside a launch of the model: keep its logits, float ``[rows, 256]``, by slot."""
        self._relay.stash_rows(table.slots, logits=logits.float())

    def close(self) -> None:
        """Give back the private stream; a later step opens another."""
        self._kept_by.clear()
        if self._mirror is not None:
            self._mirror.close()
            self._mirror = None

    @torch.inference_mode()
    def _sample(self, rows: Tensor, masks: Tensor, _kept_by: list[object]) -> None:
        table = StepTable(rows)
        # What a row's own step samples is stashed there; the others' is here.
        slots = torch.where(table.stash_slots == 0, table.slots, 0)
        logits = self._relay.gather_rows(slots, ["logits"], keep=True)["logits"]
        logits = logits.masked_fill(masks == 0, -torch.inf)
        tokens = sample(logits, table.temperatures, table.seeds, table.starts)
        self._relay.stash_rows(slots, tokens=tokens)


def advance(request: Request, token: int) -> Exception | None:
    """Give a request its token, and its guide too.

    Returns:
        Why the request cannot go on, which matters if it has not ended.
    """
    guide = request.guide
    if request.finish is not None or guide is None:
        return None  # aborted meanwhile
    failure: Exception | None = None
    if token != EOS:
        try:
            guide.advance(token)
        except Exception as error:
            failure = error
    request.take(token, EOS, is_complete=failure is None and guide.must_end)
    return failure


def _are_guided(requests: Sequence[Request]) -> bool:
    return any(request.guide is not None for request in requests)
