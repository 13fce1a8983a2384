"""What the steps of speculative decoding do on the device."""

from typing import NamedTuple

import torch
from torch import Tensor

from aio_sched.engine.admission import Limits
from aio_sched.engine.kv_cache import KVCache
from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.sampling import choose, sample
from aio_sched.engine.table import StepTable
from aio_sched.speculative.drafter import Drafter, DraftStart, HiddenDrafter
from aio_sched.speculative.verify_inputs import VerifyInputs
from buffers.access import Access
from buffers.relay import RelayBuffer
from streams.device import Device
from streams.monitor import host_writes

__all__ = ["DeviceWork", "Verified"]


class Verified(NamedTuple):
    """What the target model says of the drafted tokens.

    Attributes:
        chosen: int64 ``[B, num_draft + 1]``, what it would write behind each token.
        hidden: float ``[B, num_draft + 1, d_model]``, its hidden states there; None if the
            drafter does not want them.
    """

    chosen: Tensor
    hidden: Tensor | None


class DeviceWork:
    """The functions of all launches, and the memory that outlives a step.

    Only torch work: they run inside launches, and say nothing of order. A step's table has
    in ``starts`` and ``lengths``, for a prefill, the chunk, and for a draft and verify the
    part of the slot where the request's output may stand.

    Args:
        model: the target model, on ``device``.
        drafter: made for it; gets its memory here, which blocks.
        device: where all memory is.
        limits: sizes of a step.
        num_draft: tokens to draft.
        name: prefix of the relay's name.

    Attributes:
        relay: by slot, how many tokens are kept and the token behind them.
        inputs: what a verify reads.

    Raises:
        DraftModelError: the drafter cannot draft for the model.
    """

    def __init__(
        self,
        model: ByteTransformer,
        drafter: Drafter,
        device: Device,
        limits: Limits,
        num_draft: int,
        name: str,
    ) -> None:
        config, where = model.config, device.torch_device
        self.num_draft = num_draft
        self.drafter = drafter
        self._model = model
        self._hidden_drafter = drafter if isinstance(drafter, HiddenDrafter) else None
        if self._hidden_drafter:
            self._hidden_drafter.attach(model, num_draft)
        drafter.allocate(config, limits.max_running, where)
        self._cache = KVCache(config, limits.max_running, device=where)
        self.inputs = VerifyInputs(config, limits.max_running, num_draft + 1, where)
        # RAW: steps read the zeros of both caches, written on torch's current stream; this waits.
        self.relay = RelayBuffer(
            device,
            limits.max_running,
            {"tokens": torch.int64, "lengths": torch.int64},
            name=f"{name}relay",
        )
        self._tell_of_zeros(device, limits.max_running)

    # Memory -----------------------------------------------------------------

    def target_rows(self, rows: tuple[int, ...]) -> tuple[Access, ...]:
        """Name the target model's memory of some slots, ascending."""
        return self._cache.accesses(rows)

    def all_rows(self, rows: tuple[int, ...]) -> tuple[Access, ...]:
        """Name all memory that belongs to some slots."""
        relayed = (self.relay.access(field, rows) for field in self.relay.specs)
        return *self.target_rows(rows), *self.drafter.accesses(rows), *relayed

    def kept_hidden(self, rows: tuple[int, ...]) -> tuple[Access, ...]:
        """Name what a prefill of the target model writes for the drafter."""
        return self.drafter.accesses(rows) if self._hidden_drafter else ()

    # Prefill ----------------------------------------------------------------

    @torch.inference_mode()
    def prefill(self, rows: Tensor) -> Tensor:
        """Read chunks with the target model; return the sampled tokens, int64 ``[P]``."""
        table = StepTable(rows)
        hidden = self._model.prefill_hidden(
            table.tokens, table.slots, table.starts, table.lengths, self._cache
        )
        if self._hidden_drafter:
            self._hidden_drafter.keep_hidden(table.slots, hidden)
        logits = self._model.unembed(hidden)
        ends = table.starts + table.lengths
        return sample(logits, table.temperatures, table.seeds, ends)

    @torch.inference_mode()
    def publish_prompts(self, rows: Tensor, tokens: Tensor) -> None:
        """Say of prompts that are complete how long they are, and what comes behind them."""
        table = StepTable(rows)
        ends = table.starts + table.lengths
        self.relay.stash_rows(table.stash_slots, tokens=tokens, lengths=ends)

    @torch.inference_mode()
    def prefill_draft(self, rows: Tensor) -> None:
        """Let the drafter read the chunks too."""
        self.drafter.prefill(StepTable(rows))

    # Draft and verify -------------------------------------------------------

    @torch.inference_mode()
    def claim_cells(self, rows: Tensor) -> Tensor:
        """Claim the cells of the drafted tokens; return where each row stands.

        Returns:
            Lengths and last tokens, int64 ``[2, B]``.
        """
        table = StepTable(rows)
        relayed = self.relay.gather_rows(table.slots, keep=True)
        self.inputs.claim(relayed["lengths"], table)
        return torch.stack((relayed["lengths"], relayed["tokens"]))

    @torch.inference_mode()
    def begin_draft(self, rows: Tensor, standing: Tensor, draws: bool) -> DraftStart:
        """Read the claimed cells; behind this a draft needs the shared ones no more."""
        lengths, last = standing.unbind(0)
        return DraftStart(StepTable(rows), lengths, last, self.inputs.claimed(), draws)

    @torch.inference_mode()
    def draft(self, start: DraftStart) -> Tensor:
        """Draft, int64 ``[B, num_draft]``."""
        return self.drafter.draft(start, self.num_draft)

    @torch.inference_mode()
    def plan_verify(self, rows: Tensor, draws: bool) -> None:
        """Make what the verify needs beside the drafted tokens."""
        table = StepTable(rows)
        lengths = self.relay.gather_rows(table.slots, ("lengths",), keep=True)["lengths"]
        self.inputs.plan(lengths, table, draws=draws)

    @torch.inference_mode()
    def refill(self, start: DraftStart, drafted: Tensor) -> None:
        """Put in the drafted tokens, which the plan was too early for."""
        self.inputs.refill(start.last, drafted)

    @torch.inference_mode()
    def verify(self, start: DraftStart) -> Verified:
        """Choose what the target model would write behind each token.

        The same choice that it makes without drafts: by the same noise, if it draws.
        """
        inputs, table = self.inputs, start.table
        owners, positions = inputs.cells.unbind(0)
        hidden = self._model.score_hidden(
            inputs.tokens, owners, positions, table.slots, self._cache, inputs.is_future
        )
        chosen = self._choose(start, self._model.unembed(hidden))
        return Verified(chosen, hidden if self._hidden_drafter else None)

    def _choose(self, start: DraftStart, logits: Tensor) -> Tensor:
        inputs, table = self.inputs, start.table
        if not start.draws:
            return logits.argmax(dim=-1)
        num_tokens = inputs.tokens.shape[1]
        temperatures = table.temperatures.repeat_interleave(num_tokens)
        noise = inputs.noise.flatten(0, 1)
        return choose(logits.flatten(0, 1), temperatures, noise).view(-1, num_tokens)

    @torch.inference_mode()
    def accept(self, start: DraftStart, drafted: Tensor, verified: Verified) -> Tensor:
        """Publish how far each text has come, and its last token.

        Drafted tokens are accepted up to the first that the target model would not have
        chosen; instead of that one the text has what it did choose.

        Returns:
            How many were accepted, and behind it ``chosen``: int64 ``[B, 1 + num_draft + 1]``.
        """
        chosen = verified.chosen
        accepted = _num_accepted(drafted, chosen)[:, None]
        last = chosen.gather(1, accepted)[:, 0]
        lengths = start.lengths + accepted[:, 0] + 1
        self.relay.stash_rows(start.table.slots, tokens=last, lengths=lengths)
        return torch.cat((accepted, chosen), dim=1)

    @torch.inference_mode()
    def extend_draft(self, start: DraftStart, drafted: Tensor, verified: Verified) -> None:
        """Let the drafter catch up."""
        chosen, hidden = verified
        if self._hidden_drafter and hidden is not None:
            rows = torch.arange(hidden.shape[0], device=hidden.device)
            last = hidden[rows, _num_accepted(drafted, chosen)]
            self._hidden_drafter.keep_hidden(start.table.slots, last)
        self.drafter.extend(start, drafted, chosen)

    def _tell_of_zeros(self, device: Device, num_slots: int) -> None:
        """Tell checkers that the memory was filled before any step."""
        rows = tuple(range(num_slots + 1))
        inputs = self.inputs.accesses("cells", "tokens", "is_future", "noise")
        for access in (*self.target_rows(rows), *self.drafter.accesses(rows), *inputs):
            host_writes(device, access)


def _num_accepted(drafted: Tensor, chosen: Tensor) -> Tensor:
    """Count the drafted tokens of each row up to the first wrong one, int64 ``[B]``."""
    return (drafted == chosen[:, :-1]).long().cumprod(dim=1).sum(dim=1)
