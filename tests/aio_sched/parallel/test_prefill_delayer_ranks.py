"""The prefill delayer over many ranks: whatever happens, they agree, and prompts get on."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aio_sched.parallel.prefill_delayer as executor
from aio_sched.parallel.delayer import Decision, DelayerLimits, DelayState, RankReport, decide
from aio_sched.parallel.exchange import FramedGroup
from aio_sched.parallel.in_process import InProcessRanks
from aio_sched.parallel.prefill_delayer import DelayerPass, PrefillDelayer, RankLoad
from aio_sched.testing import virtual_run
from streams.clock import monotonic_ns

PASS_S = 0.05
WAYS = ("ask", "ask twice", "say no", "never ask", "fail", "fail after asking", "cancelled")

limits_of_ranks = st.builds(
    DelayerLimits,
    max_running=st.integers(1, 40),
    enabled=st.just(True),
    max_passes=st.integers(1, 8),
    low_watermark=st.none() | st.floats(0.05, 0.5),
    queue_ratio=st.none() | st.floats(0.1, 2.0),
    max_delay_s=st.floats(0.05, 1.0),
    queue_quiet_s=st.none() | st.floats(0.05, 0.5),
    max_prefill=st.none() | st.integers(1, 40),
    window=st.integers(1, 16),
    delay_idle=st.booleans(),
    delay_resumed=st.booleans(),
)


@pytest.fixture(autouse=True)
def inexact_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each reading of a rank's clock be off by up to a pass."""
    dice = random.Random(0)
    monkeypatch.setattr(
        executor, "monotonic_ns", lambda: monotonic_ns() + dice.randrange(int(PASS_S * 1e9))
    )


async def random_pass(rank: PrefillDelayer, dice: random.Random) -> Decision | None:
    """Make a pass that goes as the dice say, and say what it agreed on."""
    load = RankLoad(dice.randrange(40), dice.randrange(20), dice.random(), dice.random() < 0.2)
    way, prompts = dice.choice(WAYS), dice.randrange(20)
    await asyncio.sleep(dice.random() * PASS_S)
    turn = rank.single_pass(load)
    inside = asyncio.create_task(go_through(turn, rank, load, way, prompts))
    if way == "cancelled":
        await asyncio.sleep(1e-6)
        inside.cancel()
    await asyncio.wait([inside])
    assert inside.cancelled() == (way == "cancelled")
    assert inside.cancelled() or (inside.exception() is not None) == way.startswith("fail")
    return turn.decision


async def go_through(
    turn: DelayerPass, rank: PrefillDelayer, load: RankLoad, way: str, prompts: int
) -> None:
    """Make a pass in the way that is asked for."""
    async with turn:
        if way == "cancelled":
            await asyncio.Event().wait()
        if way == "say no":
            assert not await rank.negotiate(load, prefillable=False)
        if way.startswith("ask") and await turn.negotiate():
            assert way == "ask" or await turn.negotiate()
            turn.prefilled = prompts
        if way == "fail after asking":
            await turn.negotiate()
        if way.startswith("fail"):
            raise LookupError


async def random_passes(size: int, limits: DelayerLimits, seed: int, number: int) -> None:
    """Make passes on all ranks, and check what they must always be."""
    ranks = [PrefillDelayer(group, limits) for group in InProcessRanks(size).groups]
    dice = random.Random(seed)
    in_a_row = 0
    for made in range(1, number + 1):
        agreed = await asyncio.gather(*(random_pass(rank, dice) for rank in ranks))
        decision = agreed[0]
        assert decision is not None
        assert agreed == [decision] * size, "all ranks decide the same"
        assert {num_exchanges(rank) for rank in ranks} == {made}, "one exchange each"
        in_a_row = 0 if decision.allow else in_a_row + 1
        assert in_a_row < limits.max_passes


def num_exchanges(delayer: PrefillDelayer) -> int:
    """Return how many exchanges this rank has begun."""
    assert isinstance(delayer.group, FramedGroup)
    return delayer.group.number


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 16), limits_of_ranks, st.integers(0, 1 << 32))
def test_ranks_agree_whatever_each_of_them_does(
    size: int, limits: DelayerLimits, seed: int
) -> None:
    """Same decision, same number of exchanges, bounded refusals, with clocks that differ."""
    virtual_run(random_passes(size, limits, seed, number=12), seed=seed)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.integers(2, 16), limits_of_ranks, st.integers(0, 1 << 32))
def test_ranks_agree_in_many_long_runs(size: int, limits: DelayerLimits, seed: int) -> None:
    """As above, for longer."""
    virtual_run(random_passes(size, limits, seed, number=40), seed=seed)


class Adversary:
    """Chooses what all ranks say, so that a prompt on rank 0 waits as long as it can.

    It knows the policy and what has been decided so far, and tries loads of each kind until it
    finds one that will be refused.
    """

    def __init__(self, size: int, limits: DelayerLimits, dice: random.Random) -> None:
        self._size = size
        self._limits = limits
        self._dice = dice
        self._state = DelayState()

    def choose(self, marks: Sequence[int]) -> list[tuple[bool, RankLoad]]:
        """Return what each rank says in the next pass: whether it has a prompt, and its load."""
        choices = [self._mixed(), self._full(), self._short(), self._random()]
        self._dice.shuffle(choices)
        for choice in choices:
            if not self._foresee(choice, marks)[0].allow:
                break
        self._state = self._foresee(choice, marks)[1]
        return choice

    def _mixed(self) -> list[tuple[bool, RankLoad]]:
        others = [(False, RankLoad(running=1))] * (self._size - 1)
        return [(True, RankLoad(running=0, queue=1)), *others]

    def _full(self) -> list[tuple[bool, RankLoad]]:
        return [(True, RankLoad(running=self._limits.max_running, queue=99))] * self._size

    def _short(self) -> list[tuple[bool, RankLoad]]:
        return [(True, RankLoad(running=self._limits.max_running - 1, queue=0))] * self._size

    def _random(self) -> list[tuple[bool, RankLoad]]:
        dice = self._dice
        return [
            (rank == 0 or dice.random() < 0.5, RankLoad(dice.randrange(9), dice.randrange(9)))
            for rank in range(self._size)
        ]

    def _foresee(
        self, choice: list[tuple[bool, RankLoad]], marks: Sequence[int]
    ) -> tuple[Decision, DelayState]:
        reports = [
            RankReport(int(has_prompt), 0, load.running, mark, load.queue)
            for (has_prompt, load), mark in zip(choice, marks, strict=True)
        ]
        return decide(reports, self._state, self._limits)


async def adversarial_passes(
    size: int, limits: DelayerLimits, seed: int, number: int
) -> list[bool]:
    """Let an adversary choose all loads; return whether rank 0 could prefill, by pass."""
    ranks = [PrefillDelayer(group, limits) for group in InProcessRanks(size).groups]
    adversary = Adversary(size, limits, random.Random(seed))
    answers = []
    for _ in range(number):
        choice = adversary.choose([rank._mark.largest for rank in ranks])
        turns = [
            prefill_if_allowed(rank, has_prompt, load)
            for rank, (has_prompt, load) in zip(ranks, choice, strict=True)
        ]
        answers.append((await asyncio.gather(*turns))[0])
        await asyncio.sleep(PASS_S)
    return answers


async def prefill_if_allowed(rank: PrefillDelayer, has_prompt: bool, load: RankLoad) -> bool:
    """Make a pass, with the largest prefill that there can be."""
    async with rank.single_pass(load) as turn:
        allowed = has_prompt and await turn.negotiate()
        turn.prefilled = rank.limits.max_running if allowed else 0
    return allowed


def longest_wait(answers: Sequence[bool]) -> int:
    """Return the most refusals in a row."""
    return max(len(run) for run in "".join(" x"[not each] for each in answers).split(" "))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 16), limits_of_ranks, st.integers(0, 1 << 32))
def test_prompt_gets_on_however_others_try_to_delay_it(
    size: int, limits: DelayerLimits, seed: int
) -> None:
    """Of ``max_passes`` passes at least one prefills, against loads chosen to prevent it."""
    answers = virtual_run(adversarial_passes(size, limits, seed, number=24), seed=seed)
    assert longest_wait(answers) <= limits.max_passes - 1
    assert sum(answers) >= len(answers) // limits.max_passes


def test_adversary_reaches_the_bound() -> None:
    """The bound is tight: a prompt can be made to wait that long, time after time."""
    limits = DelayerLimits(max_running=8, enabled=True, max_passes=6, max_delay_s=100.0)
    for seed in range(10):
        answers = virtual_run(adversarial_passes(4, limits, seed, number=60))
        assert longest_wait(answers[6:]) == limits.max_passes - 1
        assert sum(answers[6:]) <= 54 // limits.max_passes + 1


@pytest.mark.parametrize("max_delay_s", [0.2, 0.5])
def test_adversary_cannot_delay_beyond_the_time_limit(max_delay_s: float) -> None:
    """With passes enough to refuse for 5 s, the time ends the wait, a pass late at most."""
    limits = DelayerLimits(max_running=8, enabled=True, max_passes=100, max_delay_s=max_delay_s)
    for seed in range(10):
        answers = virtual_run(adversarial_passes(4, limits, seed, number=60))
        # Clocks are off by up to a pass, in both readings.
        assert longest_wait(answers) <= max_delay_s / PASS_S + 2
