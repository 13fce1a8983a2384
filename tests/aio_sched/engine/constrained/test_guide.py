"""What a guide makes of the answers of an automaton."""

from dataclasses import dataclass
from typing import Any

import pytest

from aio_sched.engine.constrained.constraints import Automaton
from aio_sched.engine.constrained.guide import Guide
from aio_sched.engine.errors import RequestFailedError
from aio_sched.engine.requests import SamplingParams
from tests.aio_sched.engine.constrained.automata import Climbing
from tests.aio_sched.engine.tiny import LETTERS, assert_at_rest, read, rigged, running

LETTER_FLAGS = bytes(number in LETTERS for number in range(256))


@dataclass(frozen=True)
class Answering:
    """Allows any letter, and says so in another way from the third token on."""

    answer: Any

    def automaton(self) -> Automaton:
        """Begin a text."""
        return _Answer(self.answer)


class _Answer:
    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._num_tokens = 0

    def allowed(self) -> bytes:
        is_late = self._num_tokens > 1
        return self._answer if is_late else LETTER_FLAGS

    def advance(self, token: int) -> None:
        self._num_tokens += 1


@pytest.mark.parametrize("kind", [bytearray, memoryview, list])
def test_flags_of_another_type_are_taken_as_they_are_meant(kind: Any) -> None:
    """Which type an array of flags has is no reason to fail."""
    guide = Guide(Answering(kind(LETTER_FLAGS)))
    for _ in range(2):
        guide.advance(LETTERS[0])
    assert guide.allowed == LETTER_FLAGS
    assert not guide.must_end


def test_flags_do_not_change_with_an_array_that_is_used_again() -> None:
    """They are uploaded later than they were given."""
    array = bytearray(LETTER_FLAGS)
    guide = Guide(Answering(array))
    for _ in range(2):
        guide.advance(LETTERS[0])
    array[:] = bytes(256)
    assert guide.allowed == LETTER_FLAGS


@pytest.mark.parametrize("answer", [None, "\1" * 256, ["yes"] * 256, [256] * 256])
async def test_answer_that_is_no_flags_fails_its_own_request_only(answer: Any) -> None:
    """Not another one of the step, whose token came with it."""
    params = SamplingParams(9, constraint=Climbing(9, 9))
    async with running(rigged(), max_running=3) as engine:
        alone = await read(engine, engine.submit(LETTERS[:3], params))
        first = engine.submit(LETTERS[:3], params)
        spoilt = engine.submit(LETTERS[:3], SamplingParams(9, constraint=Answering(answer)))
        last = engine.submit(LETTERS[:3], params)
        with pytest.raises(RequestFailedError):
            await read(engine, spoilt)
        last_text = await read(engine, last)
        assert await read(engine, first) == last_text == alone
        await engine.drained()
        assert_at_rest(engine)
