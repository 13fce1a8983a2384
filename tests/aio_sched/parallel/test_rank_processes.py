"""Ranks in real processes: the same rules, and what becomes of them when one dies or hangs."""

from collections.abc import Iterator

import pytest

from tests.aio_sched.parallel.conformance import CONFORMANCE, SIZE
from tests.aio_sched.parallel.rank_processes import RankProcesses

# Each process imports torch, which takes seconds of a core; ``make ranks`` runs all of them. That
# the groups work over real sockets is tested in one process, in test_groups.py.
pytestmark = pytest.mark.slow

_DEADLINE_S = 4.0
# A busy machine lets a process wait for its turn; what is late by more than this hangs.
_SLACK_S = 6.0


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankProcesses]:
    """Three processes, started once: that alone takes seconds of each core."""
    with RankProcesses(SIZE, _DEADLINE_S) as processes:
        yield processes


def test_processes_keep_every_rule(ranks: RankProcesses) -> None:
    """Ranks in processes of their own give what the rules say, one rule after the other."""
    answers = ranks.ask(range(SIZE), "conformance")
    for rule in CONFORMANCE:
        assert [answer[rule.name] for answer in answers] == rule.expected, rule.name


def test_all_ranks_see_the_same_values_in_every_step(ranks: RankProcesses) -> None:
    """Random values of hundreds of exchanges reach all ranks in the same order."""
    assert len(set(ranks.ask(range(SIZE), "steps 300 0"))) == 1


def _check_failed(ranks: RankProcesses, alive: list[int], lost: int) -> None:
    for rank in alive:
        said, elapsed_s = ranks.answer(rank)
        assert said == ["RankLostError", lost]
        assert elapsed_s < _DEADLINE_S + _SLACK_S


def test_stopped_and_killed_ranks_are_named_by_all_others() -> None:
    """SIGSTOP and SIGKILL amid an exchange: all others report in time, rebuild, and go on."""
    with RankProcesses(5, _DEADLINE_S) as ranks:
        alive = [0, 1, 3, 4]
        ranks.stop(2)
        ranks.tell(alive, "exchange")
        _check_failed(ranks, alive, lost=2)
        assert ranks.ask(alive, "rebuild") == [[new, 4, 1] for new in range(4)]
        assert [said for said, _ in ranks.ask(alive, "exchange")] == [[[0], [1], [2], [3]]] * 4
        ranks.kill(2)

        alive = [0, 1, 4]
        ranks.tell(alive, "exchange")
        ranks.kill(3)
        _check_failed(ranks, alive, lost=2)  # its number since the rebuild
        assert ranks.ask(alive, "rebuild") == [[new, 3, 2] for new in range(3)]
        assert [said for said, _ in ranks.ask(alive, "exchange")] == [[[0], [1], [2]]] * 3


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_lost_keeper_of_the_table_is_named_by_all_others(how: str) -> None:
    """Without rank 0 nobody can say who is missing: the others name it all the same."""
    with RankProcesses(SIZE, _DEADLINE_S) as ranks:
        alive = [1, 2]
        ranks.tell(alive, "exchange")
        ranks.stop(0) if how == "stop" else ranks.kill(0)
        _check_failed(ranks, alive, lost=0)
        ranks.kill(0)


@pytest.fixture(scope="module")
def four_ranks() -> Iterator[RankProcesses]:
    """Four processes that a busy machine may let wait for long."""
    with RankProcesses(4, 30.0) as processes:
        yield processes


@pytest.mark.soak
@pytest.mark.parametrize("block", range(20))
def test_four_ranks_do_not_diverge_in_ten_thousand_steps(
    four_ranks: RankProcesses, block: int
) -> None:
    """Ten thousand exchanges of random values, 500 in each block, reach four ranks alike."""
    assert len(set(four_ranks.ask(range(4), f"steps 500 {block}"))) == 1
