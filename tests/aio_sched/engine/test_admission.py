"""The policy that chooses a step: plain values in, a plan out."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from aio_sched.engine.admission import Chunk, Limits, Plan, plan_step

LIMITS = Limits(max_running=4, prefill_rows=2, chunk=8)


@dataclass(eq=False)
class Job:
    """A request as the policy sees it."""

    num_prompt: int
    num_to_decode: int
    num_prefilled: int = 0

    @property
    def num_to_prefill(self) -> int:
        """Prompt tokens left."""
        return self.num_prompt - self.num_prefilled

    @property
    def can_decode(self) -> bool:
        """Whether the prompt is read and tokens are left."""
        return self.num_to_prefill == 0 and self.num_to_decode > 0


def plan(*running: Job, after_prefill: bool = False) -> Plan[Job]:
    """Plan a step."""
    return plan_step(running, LIMITS, after_prefill=after_prefill)


def reading(num_prompt: int = 5) -> Job:
    """Make a job whose prompt is unread."""
    return Job(num_prompt, 3)


def writing() -> Job:
    """Make a job whose prompt is read."""
    return Job(5, 3, num_prefilled=5)


def test_nothing_to_do_gives_an_empty_plan() -> None:
    """No requests, and requests that wait for their last token, make no step."""
    assert plan() == Plan()
    assert plan(Job(5, 0, num_prefilled=5)) == Plan()
    assert plan(Job(5, 0, num_prefilled=5), after_prefill=True) == Plan()


def test_prefill_goes_before_decode() -> None:
    """A new request joins the batch before the others write on."""
    new = reading()
    assert plan(writing(), new) == Plan(prefill=(Chunk(new, 0, 5, True),))


def test_decode_follows_a_prefill_although_prompts_wait() -> None:
    """A burst of prompts does not silence who is writing."""
    old = writing()
    assert plan(old, reading(), reading(), after_prefill=True) == Plan(decode=(old,))


def test_prefill_follows_a_prefill_if_nobody_writes() -> None:
    """There is nobody to be fair to."""
    new = reading()
    assert plan(new, after_prefill=True) == Plan(prefill=(Chunk(new, 0, 5, True),))


def test_prefill_takes_the_oldest_prompts_that_have_room() -> None:
    """Rows are limited; a request that is written already takes none."""
    first, second, third = reading(), reading(), reading()
    taken = plan(writing(), first, second, third).prefill
    assert [chunk.request for chunk in taken] == [first, second]


def test_chunks_cover_a_prompt_once_and_in_order() -> None:
    """The last one is marked, also where the prompt ends with a chunk."""
    for length, expected in (
        (7, [(0, 7, True)]),
        (8, [(0, 8, True)]),
        (9, [(0, 8, False), (8, 1, True)]),
        (16, [(0, 8, False), (8, 8, True)]),
        (20, [(0, 8, False), (8, 8, False), (16, 4, True)]),
    ):
        job, chunks = reading(length), []
        while job.num_to_prefill:
            [chunk] = plan(job).prefill
            chunks.append(chunk[1:])
            job.num_prefilled += chunk.length
        assert chunks == expected


def test_decode_takes_all_that_can_up_to_the_limit() -> None:
    """Oldest first."""
    jobs = [writing() for _ in range(6)]
    jobs[1].num_to_decode = 0
    assert plan(*jobs).decode == (jobs[0], *jobs[2:5])


jobs = st.builds(Job, st.integers(1, 30), st.integers(0, 6))


@given(st.lists(jobs, max_size=LIMITS.max_running))
def test_every_request_ends_and_none_is_silenced(running: list[Job]) -> None:
    """Followed to the end, plans serve all, and who can write never waits for two steps."""
    num_tokens = sum(-(-job.num_prompt // LIMITS.chunk) + job.num_to_decode for job in running)
    after_prefill, waited = False, False
    for _ in range(num_tokens + 1):
        step = plan_step(running, LIMITS, after_prefill=after_prefill)
        can_write = [job for job in running if job.can_decode]
        assert len(step.prefill) <= LIMITS.prefill_rows
        assert not (step.prefill and step.decode)
        assert step.decode in ((), tuple(can_write))
        assert step.decode or not (waited and can_write)
        waited = bool(can_write) and not step.decode
        for chunk in step.prefill:
            assert chunk.start == chunk.request.num_prefilled
            chunk.request.num_prefilled += chunk.length
            assert chunk.is_last == (chunk.request.num_to_prefill == 0)
        for job in step.decode:
            job.num_to_decode -= 1
        after_prefill = bool(step.prefill)
        if not (step.prefill or step.decode):
            break
    assert all(job.num_to_prefill == job.num_to_decode == 0 for job in running)
