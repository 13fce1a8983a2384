"""The host's copy of relay rows, pulled as soon as they are published."""

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from buffers.rows import Slots
from buffers.transfer import copy_to_host, host_copy, to_device
from streams.current import current_stream
from streams.launch import Launch
from streams.stream import Stream

if TYPE_CHECKING:
    from buffers.relay import RelayBuffer

__all__ = ["HostMirror", "HostValues"]


class HostValues:
    """Rows on their way to the host; awaiting gives them.

    Awaiting twice gives two copies. Cancelling the waiter leaves the pull to run out;
    its memory goes back to the pool when the pull has completed and nobody holds this.
    """

    __slots__ = ("_launch",)

    def __init__(self, launch: Launch[dict[str, Tensor]] | None) -> None:
        self._launch = launch

    def __repr__(self) -> str:
        return f"<HostValues {self._launch!r}>"

    @property
    def launch(self) -> Launch[dict[str, Tensor]] | None:
        """The pull, whose event ends its use of the rows; None if no values are needed."""
        return self._launch

    def __await__(self) -> Generator[None, None, dict[str, Tensor] | None]:
        return self.wait().__await__()

    async def wait(self, timeout: float | None = None) -> dict[str, Tensor] | None:
        """Suspend until the rows are on the host, and no longer.

        Args:
            timeout: seconds to wait at most; None waits until cancelled.

        Returns:
            One tensor per field, one row per slot, which the caller owns; None if no
            host values are needed.

        Raises:
            DeadlineError: they did not come in time.
            Exception: what the launch raised that was to write the rows.
        """
        if self._launch is None:
            return None
        values = await self._launch.wait(timeout)
        # Cloned, so that no caller keeps a piece of the pinned pool, or shares his rows.
        return {field: rows.clone() for field, rows in values.items()}


class HostMirror:
    """Pulls relay rows to the host over a device stream of its own.

    A pull waits for the event that published the rows, and for nothing else: not for
    the rest of the forward that published them, and for no barrier of the schedule
    stream. Each pull copies into fresh memory from torch's pinned pool instead of a
    standing mirror, so two pulls in flight cannot overwrite each other, and a
    cancelled one needs nobody to give its memory back. Only the rows asked for are
    read, so that a step that is writing others neither delays nor races a pull.

    Where there is no private stream (``Capabilities.private_d2h``), and as long as
    nothing was published (bootstrap), a pull is a plain copy on the current stream, behind
    whatever the stage that asks has enqueued there.

    Args:
        relay: whose rows.
        fields: which of its fields; all if none is named.
        needs_host_values: False opts out: nothing is enqueued, and every result is
            None. Never a stale value, which could pass for a real one.

    Raises:
        UnknownFieldError: the relay has no such field.
        ValueError: another stream is named ``{relay.name}.d2h``.
    """

    def __init__(
        self, relay: "RelayBuffer", fields: Sequence[str] = (), *, needs_host_values: bool = True
    ) -> None:
        self.relay = relay
        self.fields = relay.gathers((), *fields).fields
        self.needs_host_values = needs_host_values
        self.stream: Stream | None = None
        if needs_host_values and relay.device.capabilities.private_d2h:
            # Urgent: its few small kernels must not queue behind those of a forward.
            self.stream = relay.device.stream(f"{relay.name}.d2h", priority=-1)

    def __repr__(self) -> str:
        how = f"over {self.stream.name!r}" if self.stream else "by plain copies"
        return f"<HostMirror of {self.relay.name!r} {how if self.needs_host_values else 'unused'}>"

    def pull(self, slots: Slots, *, stream: Stream | None = None) -> HostValues:
        """Enqueue a copy of rows to the host, as they are now or will be when written.

        Enqueues on the private stream behind the last writes to the rows, for published
        ones the publish event; later writes wait, on the device, for the pull. Does not
        wait and does not consume. Called by the one task that issues device work; any
        task may await the result.

        Args:
            slots: whose rows; the values come in this order.
            stream: where a plain copy is enqueued; by default the current stream, or the
                private one if none is current.

        Raises:
            SlotRangeError: there is no such row.
            DuplicateSlotError: a slot is named twice.
            NoCurrentStreamError: a plain copy, and there is no stream to put it on.
            RowNotWrittenError: strict mode: a row holds nothing new.
            StaleRowError: strict mode: a row was written for another owner.
        """
        if not self.needs_host_values:
            return HostValues(None)
        if self.stream is None or self.relay.published is None:
            return HostValues(self._plain_copy(slots, stream))
        use = self.relay.gathers(slots, *self.fields, keep=True)
        index = use.rows.as_tensor()
        return HostValues(
            self.relay.launch(
                pull_rows, self.relay, index, use.fields, uses=[use], stream=self.stream
            )
        )

    async def resolve(self, slots: Slots) -> dict[str, Tensor] | None:
        """Pull, and wait for the values; see ``pull`` and ``HostValues.wait``."""
        return await self.pull(slots)

    def close(self) -> None:
        """Give the private stream back; await what was pulled first."""
        if self.stream is not None:
            self.stream.close()

    def _plain_copy(self, slots: Slots, stream: Stream | None) -> Launch[dict[str, Tensor]]:
        stream = stream or current_stream() or self.stream
        rows = self.relay.gather(slots, *self.fields, keep=True, stream=stream)
        return copy_to_host(rows.event.recorded_on(), rows)


def pull_rows(relay: "RelayBuffer", index: Tensor, fields: Sequence[str]) -> dict[str, Tensor]:
    """Issue a pull on the current stream, the private one."""
    rows = relay.gather_rows(to_device(relay.device, index), fields, keep=True)
    return host_copy(rows, pin=relay.device.capabilities.pinned_memory)
