"""Schedules in one line: what is written can be read, and means the same run."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aio_sched.testing.schedule import Schedule, choices_text, parse_choices, parse_fault
from streams.simulated import Fault, FaultKind

turns = st.none() | st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple)


@given(st.lists(turns))
def test_choices_survive_being_written(choices: list[tuple[int, ...] | None]) -> None:
    """Turns in order at the end go without saying."""
    while choices and choices[-1] is None:
        choices.pop()
    assert parse_choices(choices_text(tuple(choices))) == tuple(choices)


@pytest.mark.parametrize("text", ["1", "1=", "1=a", "1=2;", ";", "1=2,", "x=1"])
def test_what_is_no_choice_is_refused(text: str) -> None:
    """The error shows what is expected."""
    with pytest.raises(ValueError, match="are not turn=place"):
        parse_choices(text)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(FaultKind.DEVICE_LOST),
        Fault(FaultKind.SLOW_COPY, label="host_copy", nth=None),
        Fault(FaultKind.LAUNCH_RAISES, "forward", "model", 3, 2),
        Fault(FaultKind.SLOW_LAUNCH, label="<lambda>", factor=5000.5, delay_us=1.0),
    ],
)
def test_fault_survives_being_written(fault: Fault) -> None:
    """Empty parts mean any."""
    words = shlex.split(Schedule(faults=(fault,)).arguments())
    assert parse_fault(words[words.index("--fault") + 1]) == fault


def test_unknown_kind_of_fault_is_refused() -> None:
    """By the enumeration, which names it."""
    with pytest.raises(ValueError, match="boredom"):
        parse_fault("boredom")


@pytest.mark.parametrize("wrong", [{"profile": "nope"}, {"order_name": "nope"}])
def test_unknown_names_are_refused(wrong: dict[str, str]) -> None:
    """The known ones are named."""
    with pytest.raises(ValueError, match=r"'nope'.*is unknown; use"):
        Schedule(**wrong)  # type: ignore[arg-type]  # one of its text fields


def test_seed_below_zero_is_no_option() -> None:
    """An equals sign keeps the parser from taking it for one."""
    assert Schedule(-3).arguments().startswith("--replay=-3:friendly:fifo")
