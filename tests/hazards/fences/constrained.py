"""The fences of delayed sampling."""

from tests.hazards.fences.entry import Fence, Rewrite
from tests.hazards.shipped.constrained import constrained

__all__ = ["FENCES"]

FENCES = (
    Fence(
        "aio_sched/engine/constrained/delayed.py",
        "DelayedSampling.sample",
        "RAW: sampling reads the logits that the model has kept in the step before",
        constrained,
        ("RAW", "relay.logits"),
        # What orders them is that both are on one stream, and that one takes the other.
        Rewrite(
            "step.watch(self._relay.launch(self._sample, table, masks, [], uses=uses, "
            "stream=step.schedule_stream))"
        ),
    ),
)
