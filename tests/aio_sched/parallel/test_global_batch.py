"""What all ranks run in a step follows from what each of them states, and from nothing else."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aio_sched.parallel.global_batch import (
    Farewell,
    GlobalBatch,
    Mode,
    RankState,
    SyncPolicy,
    complaint,
    merge,
)

IDLE = RankState()
DECODE = RankState(tokens=3, mode=Mode.DECODE)
PREFILL = RankState(tokens=40, mode=Mode.PREFILL, is_extend=1, can_graph=0)
GRAPHS = SyncPolicy(graph_rows=(2, 4, 8))


def merged(*states: RankState | None, former: GlobalBatch | None = None) -> GlobalBatch:
    """Merge under a policy that has decode graphs."""
    return merge(states, GRAPHS, former)


@st.composite
def rank_states(draw: st.DrawFn) -> RankState:
    """Draw what a rank may state."""
    mode = draw(st.sampled_from(Mode))
    tokens = 0 if mode is Mode.IDLE else draw(st.integers(1, 9))
    is_extend = int(mode is Mode.PREFILL)
    flags = st.integers(0, 1)
    can_graph = 0 if is_extend else draw(flags)
    farewell = draw(st.sampled_from(Farewell))
    return RankState(tokens, mode, is_extend, can_graph, draw(flags), draw(flags), farewell)


def test_all_idle_runs_nothing_and_may_sleep() -> None:
    """Nobody runs a batch for nobody."""
    batch = merged(IDLE, IDLE)
    assert (batch.is_idle, batch.can_sleep, batch.counts) == (True, True, (0, 0))


def test_one_busy_rank_gives_the_others_an_idle_batch() -> None:
    """Whoever has nothing joins with no tokens."""
    batch = merged(IDLE, DECODE, IDLE)
    assert (batch.is_idle, batch.can_sleep) == (False, False)
    assert (batch.mode, batch.counts) == (Mode.DECODE, (0, 3, 0))


def test_rank_that_states_nothing_is_idle() -> None:
    """A missing statement counts as no work, not as a veto."""
    assert merged(None, DECODE) == merged(IDLE, DECODE)


def test_one_rank_that_extends_makes_the_step_an_extend_without_a_graph() -> None:
    """The flags are gathered by max, the votes by min."""
    batch = merged(DECODE, PREFILL)
    assert (batch.mode, batch.is_extend, batch.stride) == (Mode.PREFILL, True, None)


def test_decode_graph_is_the_smallest_that_holds_the_largest_rank() -> None:
    """Every rank is padded to it."""
    assert merged(DECODE, DECODE._replace(tokens=5)).stride == 8
    assert merged(IDLE, DECODE._replace(tokens=2)).stride == 2
    assert merged(DECODE._replace(tokens=9), IDLE).stride is None


def test_one_vote_against_the_graph_is_enough() -> None:
    """All replay, or none."""
    assert merged(DECODE, DECODE._replace(can_graph=0)).stride is None


def test_one_rank_switches_overlap_off_for_all() -> None:
    """For this step only."""
    asked = merged(DECODE, DECODE._replace(overlap_off=1))
    assert asked.overlap is False
    assert merged(DECODE, DECODE, former=asked).overlap is True


@pytest.mark.parametrize("allowed", [True, False])
def test_two_prefills_in_a_row_overlap_only_if_they_may(allowed: bool) -> None:
    """The two may be of different ranks: what counts is the gathered flag."""
    policy = SyncPolicy(consecutive_prefill_overlap=allowed)
    first = merge([PREFILL, DECODE], policy, None)
    second = merge([DECODE, PREFILL], policy, first)
    assert (first.overlap, second.overlap) == (True, allowed)
    assert merge([DECODE, DECODE], policy, second).overlap is True


def test_work_that_is_held_back_keeps_all_awake() -> None:
    """No wake-up will tell of it."""
    batch = merged(IDLE, IDLE._replace(has_more=1))
    assert (batch.is_idle, batch.can_sleep) == (True, False)


@pytest.mark.parametrize(
    ("farewells", "parting"),
    [
        ((Farewell.STAYS, Farewell.WANTS_TO_GO), ()),
        ((Farewell.WANTS_TO_GO, Farewell.WANTS_TO_GO), (0, 1)),
        ((Farewell.STAYS, Farewell.GOES), (1,)),
        ((Farewell.WANTS_TO_GO, Farewell.GOES), (0, 1)),
    ],
)
def test_ranks_part_together_or_when_one_says_that_it_goes(
    farewells: tuple[Farewell, ...], parting: tuple[int, ...]
) -> None:
    """A wish alone moves nobody."""
    assert merged(*(IDLE._replace(farewell=each) for each in farewells)).parting == parting


@given(st.lists(rank_states(), min_size=1, max_size=8), st.sampled_from([SyncPolicy(), GRAPHS]))
def test_rows_of_the_ranks_tile_the_gathered_batch(
    states: list[RankState], policy: SyncPolicy
) -> None:
    """Each token has one place, in order of rank; with a graph each rank has its stride."""
    batch = merge(states, policy, None)
    slices = [batch.rows_of(rank) for rank in range(len(states))]
    assert [each.stop - each.start for each in slices] == list(batch.counts)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(slices))
    if batch.stride is None:
        assert slices[-1].stop == sum(batch.counts)
    else:
        assert [each.start for each in slices] == [r * batch.stride for r in range(len(states))]


@given(st.lists(rank_states(), min_size=1, max_size=8))
def test_what_ranks_may_state_is_not_complained_of_and_merges(states: list[RankState]) -> None:
    """And the merged flags are what some rank said."""
    assert not any(map(complaint, states))
    batch = merge(states, GRAPHS, None)
    assert batch.overlap is not any(state.overlap_off for state in states)
    assert batch.is_idle is not any(state.tokens for state in states)
    assert len(batch.values()) == 5 + len(states) + len(batch.parting)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (RankState(tokens=3), "3 tokens in mode IDLE"),
        (RankState(mode=Mode.DECODE), "0 tokens in mode DECODE"),
        (RankState(tokens=-1, mode=Mode.DECODE), "-1 tokens in mode DECODE"),
        (RankState(tokens=-1), "-1 tokens in mode IDLE"),
        (RankState(mode=7), "mode 7 is none of"),
        (RankState(farewell=-1), "farewell -1 is none of"),
        (RankState(can_graph=2), "can_graph=2 is neither 0 nor 1"),
    ],
)
def test_statement_that_cannot_be_is_complained_of(state: RankState, says: str) -> None:
    """With the values, so that the rank can be looked into."""
    assert says in complaint(state)


def test_settings_and_ranks_out_of_range_are_refused() -> None:
    """A graph without rows, a group without ranks."""
    with pytest.raises(ValueError, match=r"graph_rows=\(0,\)"):
        SyncPolicy(graph_rows=(0,))
    with pytest.raises(ValueError, match="no rank has stated anything"):
        merge([], GRAPHS, None)
