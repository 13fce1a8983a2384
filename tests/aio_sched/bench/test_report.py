"""Percentiles and tables of benchmark rows."""

import pytest

from aio_sched.bench.report import percentiles, print_table, table


def test_percentiles_are_samples_by_nearest_rank() -> None:
    """Each figure was measured, none is interpolated."""
    assert percentiles(range(1, 101)) == {"p50": 50, "p99": 99, "max": 100}
    assert percentiles([3.0]) == {"p50": 3.0, "p99": 3.0, "max": 3.0}
    assert percentiles([2.0, 1.0]) == {"p50": 1.0, "p99": 2.0, "max": 2.0}


def test_percentiles_of_nothing_are_none() -> None:
    """A row without samples has no figures."""
    assert percentiles([]) == {"p50": None, "p99": None, "max": None}


def test_percentiles_are_rounded() -> None:
    """As many digits as asked for."""
    assert percentiles([1.23456], 1)["max"] == 1.2


def test_table_shows_every_cell_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Into a pipe, which has no width, nothing is cut off; None is a dash."""
    print_table(table("title", ("name", "figure"), [("a" * 100, 1.5), ("b", None)]))
    out = capsys.readouterr().out
    assert "a" * 100 in out
    assert "1.5" in out
    assert " - " in out


def test_numbers_stand_to_the_right_and_text_to_the_left() -> None:
    """A column with a number in it is a column of numbers."""
    columns = table("t", ("text", "number"), [("a", 1.0), ("b", None)]).columns
    assert [column.justify for column in columns] == ["left", "right"]
