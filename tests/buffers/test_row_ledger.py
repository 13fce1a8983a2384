"""``RowLedger``: the row state machine of strict relays, against a model."""

from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from buffers.errors import RowNotWrittenError, StaleRowError
from buffers.row_ledger import RowLedger
from buffers.rows import RowRef
from streams.errors import AioSchedError
from streams.event import Event
from tests.device_fixtures import CpuBench

ROWS = st.integers(1, 3)
GENERATIONS = st.none() | st.integers(1, 3)


class Content(NamedTuple):
    """What the model says that a row holds."""

    generation: int | None
    is_fresh: bool


class LedgerMachine(RuleBasedStateMachine):
    """Any sequence of writes, gathers and peeks of rows by owners of any generation."""

    def __init__(self) -> None:
        super().__init__()
        self.device = CpuBench().open()
        self.stream = self.device.stream("forward")
        self.ledger = RowLedger("relay.tokens", 4)
        self.rows: dict[int, Content] = {}

    def teardown(self) -> None:
        """Stop the stream's thread."""
        self.device.close()

    @rule(row=ROWS, generation=GENERATIONS)
    def write(self, row: int, generation: int | None) -> None:
        """Written for anybody but an earlier owner than the row's last."""
        ref, content = RowRef(row, generation, "w"), self.rows.get(row)
        is_late = content is not None and earlier(generation, content.generation)
        if is_late:
            with pytest.raises(StaleRowError):
                self.ledger.check_write([ref])
            return
        self.ledger.check_write([ref])
        self.ledger.note_write([ref], self.event())
        self.rows[row] = Content(generation, is_fresh=True)

    @rule(row=ROWS, generation=GENERATIONS, consumes=st.booleans())
    def read(self, row: int, generation: int | None, consumes: bool) -> None:
        """Read if fresh, and written for the same owner as far as both are known."""
        ref = RowRef(row, generation, "r")
        if (error := self.expected_error(row, generation)) is not None:
            with pytest.raises(error):
                self.ledger.check_read([ref])
            return
        self.ledger.check_read([ref])
        self.ledger.note_read([ref], self.event(), consumes=consumes)
        if consumes:
            self.rows[row] = self.rows[row]._replace(is_fresh=False)

    def expected_error(self, row: int, generation: int | None) -> type[AioSchedError] | None:
        """What the model says to a read."""
        content = self.rows.get(row)
        if content is None:
            return RowNotWrittenError
        if None not in (generation, content.generation) and generation != content.generation:
            return StaleRowError
        return None if content.is_fresh else RowNotWrittenError

    def event(self) -> Event:
        """An event of the one stream."""
        return self.stream.record()


def earlier(generation: int | None, other: int | None) -> bool:
    """Whether both are known, and the first is the earlier one."""
    return generation is not None and other is not None and generation < other


LedgerMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase


def test_error_in_one_row_names_that_row() -> None:
    """Of several rows of one call, the wrong one is named."""
    with CpuBench().open() as device:
        event = device.stream("forward").record()
        ledger = RowLedger("relay.tokens", 4)
        ledger.note_write([RowRef(1), RowRef(3)], event)
        with pytest.raises(RowNotWrittenError, match="slot 2"):
            ledger.check_read([RowRef(1), RowRef(2), RowRef(3)])
