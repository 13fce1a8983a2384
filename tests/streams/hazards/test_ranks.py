"""Ranks that share a process: what orders them, and what does not."""

import gc
import weakref

import pytest
import torch

from streams.hazards import arrive, depart, handoff, rank_scope
from tests.streams.hazards.shared_memory import Meeting, Shared, call


def test_two_ranks_need_a_collective() -> None:
    """What the loop ran first on one rank may come last where ranks are processes."""
    shared = Shared()
    shared.write(0)
    shared.read(1)
    (report,) = shared.checker.reports
    assert shared.found == [("RAW", "rank 0", "rank 1")]
    assert report.missing == "rank 0 -> rank 1 (a collective or handoff between them)"


def test_collective_orders_each_rank_behind_all() -> None:
    """Also the rank that came first, behind those that came later."""
    shared, meeting = Shared(3), Meeting()
    for rank in range(3):
        shared.write(rank, cell=rank)
        call(arrive, rank, meeting)
    for rank in range(3):
        call(depart, rank, meeting)
        for cell in range(3):
            shared.read(rank, cell)
    assert shared.found == []
    shared.write(0, cell=1)  # who reads after the collective is not before what comes after it
    assert shared.found == [("WAR", "rank 1", "rank 0"), ("WAR", "rank 2", "rank 0")]


def test_handoff_orders_ranks_behind_those_before_only() -> None:
    """A queue between two ranks is no collective: it leads one way."""
    shared, thing = Shared(2), Meeting()
    for rank in range(2):
        shared.write(rank, cell=rank)
        call(handoff, rank, thing)
    shared.read(1, cell=0)
    assert shared.found == []
    shared.read(0, cell=1)
    assert shared.found == [("RAW", "rank 1", "rank 0")]


def test_who_gives_up_a_collective_is_behind_nobody() -> None:
    """To arrive is to give; only who departs has the others' part."""
    shared, meeting = Shared(), Meeting()
    shared.write(0)
    call(arrive, 0, meeting)
    call(arrive, 1, meeting)
    shared.read(1)
    assert shared.found == [("RAW", "rank 0", "rank 1")]


def test_what_comes_after_arriving_is_not_brought() -> None:
    """The others may have gone on by then."""
    shared, meeting = Shared(), Meeting()
    call(arrive, 0, meeting)
    shared.write(0)
    call(arrive, 1, meeting)
    call(depart, 1, meeting)
    shared.read(1)
    assert shared.found == [("RAW", "rank 0", "rank 1")]


def test_other_meetings_order_nothing() -> None:
    """A rank that skips an exchange meets the others at the wrong one."""
    shared = Shared()
    shared.write(0)
    for rank in range(2):
        meeting = Meeting()
        call(arrive, rank, meeting)
        call(depart, rank, meeting)
    shared.read(1)
    assert shared.found == [("RAW", "rank 0", "rank 1")]


def test_launches_come_after_their_rank() -> None:
    """And after no other one, whose event they must wait for."""
    shared = Shared()
    (cell,) = shared.cells
    shared.write(0)
    shared.launch(0, reads=cell)
    shared.launch(1, reads=cell)
    assert shared.found == [("RAW", "rank 0", "forward of 1")]


def test_event_of_another_rank_orders_who_sees_it() -> None:
    """A rank that has learned of it, and no other one."""
    shared = Shared()
    (cell,) = shared.cells
    written = shared.launch(0, writes=cell)
    with rank_scope(1):
        assert written.query()
    shared.read(1)
    assert shared.found == []
    shared.read(2)
    assert shared.found == [("RAW", "forward of 0", "rank 2")]


def test_outside_is_in_order_with_each_rank_and_leads_to_none() -> None:
    """The program around the ranks sets up and looks on; for that no two ranks are in order."""
    shared = Shared(2)
    for cell in range(2):
        shared.write(None, cell)
    for rank in (0, None, 1, None):
        shared.write(rank, cell=0)
        shared.read(None, cell=0)
    assert shared.found == [("WAW", "rank 0", "rank 1")]
    shared.launch(0, reads=shared.cells[1])
    assert len(shared.found) == 1


def test_event_that_the_outside_has_seen_is_seen_by_ranks() -> None:
    """A helper that waits for the device and tells the rank needs no scope."""
    shared = Shared()
    (cell,) = shared.cells
    assert shared.launch(0, writes=cell).query()
    shared.read(1)
    assert shared.found == []


def test_meetings_are_forgotten_with_their_object() -> None:
    """A service exchanges something in each step, for ever."""
    shared = Shared()
    for _ in range(1000):
        meeting = Meeting()
        for rank in range(2):
            call(arrive, rank, meeting)
        for rank in range(2):
            call(depart, rank, meeting)
    for number in range(1000):
        call(arrive, 0, (number, "is no weak reference's"))
    assert len(shared.checker._hosts._meetings) <= 257


def test_checker_that_is_gone_is_told_of_no_meeting() -> None:
    """To be told keeps no checker alive."""
    shared = Shared()
    shared.write(0)
    gone = weakref.ref(shared.checker)
    del shared
    gc.collect()
    assert gone() is None


def test_parts_that_all_ranks_know_to_be_done_are_forgotten() -> None:
    """And those that one of them has yet to learn of are not."""
    shared, pool = Shared(), torch.zeros(100_000)
    for number in range(3000):
        meeting = Meeting()
        shared.launch(number % 2, writes=pool[number : number + 50])
        shared.device.synchronize()
        for do in (arrive, depart):
            for rank in range(2):
                call(do, rank, meeting)
    assert shared.checker.memory.num_cells(pool) <= 512
    for number in range(1, 2000):
        with rank_scope(0):
            shared.launch(0, writes=pool[50_000 + number : 50_050 + number]).query()
    shared.launch(1, reads=pool[50_001:50_002])
    assert set(shared.found) == {("RAW", "forward of 0", "forward of 1")}


def test_negative_rank_is_refused() -> None:
    """Ranks count from 0."""
    with pytest.raises(ValueError, match=r"rank=-1 is negative"), rank_scope(-1):
        pass


def test_inner_scope_counts() -> None:
    """And the outer one again behind it; to begin or to end one orders nothing."""
    shared = Shared()
    with rank_scope(0):
        shared.write(1)
        shared.checker.on_host_access(shared.device, shared.cells[0], is_write=False)
    assert shared.found == [("RAW", "rank 1", "rank 0")]


def test_who_knows_less_takes_nothing_away_from_a_meeting() -> None:
    """A rank that brings what it learned of another one before leaves that one's own part."""
    shared = Shared()
    for _ in range(2):
        meeting = Meeting()
        shared.write(0)
        for do in (arrive, depart):
            for rank in range(2):
                call(do, rank, meeting)
    shared.read(1)
    assert shared.found == []
