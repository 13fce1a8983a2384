"""Regular expressions and JSON schemas: what is refused, and that texts that end are right."""

import json
import random
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from aio_sched.engine.constrained import grammar
from aio_sched.engine.constrained.constraints import Constraint
from aio_sched.engine.constrained.grammar import JsonSchema, Regex
from aio_sched.engine.constrained.guide import Guide
from aio_sched.engine.errors import ConstraintError
from aio_sched.engine.model import EOS
from aio_sched.engine.requests import FinishReason, SamplingParams
from tests.aio_sched.engine.tiny import read, rigged, running

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["new", "old"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def is_person(text: str) -> bool:
    """Whether a text is a JSON document of the schema; written without the schema."""
    person = json.loads(text)
    assert set(person) <= {"name", "age", "tags"}
    assert 1 <= len(person["name"]) <= 6
    assert isinstance(person["age"], int)
    return 0 <= person["age"] <= 150 and set(person.get("tags", [])) <= {"new", "old"}


def drawn(constraint: Constraint, dice: random.Random, most: int = 400) -> bytes | None:
    """Draw a text byte by byte, ending it as soon as may be from some length on.

    None for one that got too long.
    """
    guide, text = Guide(constraint), bytearray()
    wanted = dice.randrange(40)
    while len(text) < most:
        choices = [token for token, flag in enumerate(guide.allowed) if flag]
        token = EOS if guide.allowed[0] and len(text) >= wanted else dice.choice(choices)
        if token == EOS:
            return bytes(text)
        text.append(token)
        guide.advance(token)
    return None


PATTERNS = (
    r"[0-9]{3}-[a-z]{2,5}",
    r"(?:ab|a)(?:bc|c)?",
    r"a*",
    r"\d+(\.\d+)?",
    r"(?i)yo|no",
    r"[^a]{1,3}",
    r".{0,4}é+",
    r"\D\W\S",
    r"a/b#c\nd",
    r"^\w+$",
    r"\s*",
    r"(\+|-)?[1-9][0-9]*",
    r"[\u4e00-\u4eff]{2}",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_text_that_ends_matches_the_expression(pattern: str) -> None:
    """Also in Python's reading of it, and as UTF-8."""
    dice = random.Random(pattern)
    texts = [drawn(Regex(pattern), dice) for _ in range(40)]
    ended = [text for text in texts if text is not None]
    assert len(set(ended)) > 1 or pattern == r"a/b#c\nd"
    for text in ended:
        assert EOS not in text
        assert re.fullmatch(pattern, text.decode(), re.ASCII) is not None, text


def test_every_text_that_ends_is_a_document_of_the_schema() -> None:
    """In a form without white space."""
    dice = random.Random(0)
    texts = [drawn(JsonSchema(PERSON), dice) for _ in range(60)]
    ended = [text.decode() for text in texts if text is not None]
    assert len(set(ended)) > 30
    for text in ended:
        assert is_person(text)
        assert json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False).count(
            " "
        ) == text.count(" ")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Regex("("), r"regex '\(' cannot be understood.*unclosed group"),
        (lambda: Regex("(?=a)b"), "look-around"),
        (lambda: Regex(r"(a)\1"), "backreferences"),
        (lambda: Regex("a\\\\\\"), "ends within an escape"),
        (lambda: Regex(r"[^\s\S]"), "no text at all"),
        (lambda: Regex(r"\x00"), "no text at all.*byte 0 is the end"),
        (lambda: Regex(b"7"), "pattern is a bytes"),  # type: ignore[arg-type]  # that is the point
        (lambda: JsonSchema({"type": "unicorn"}), "Invalid type: unicorn"),
        (lambda: JsonSchema({"$ref": "#/nowhere"}), "nowhere"),
        (lambda: JsonSchema({"not": {"type": "string"}}), "Unimplemented keys"),
        (lambda: JsonSchema({"enum": []}), "Unsatisfiable"),
        (lambda: JsonSchema({"type": {1, 2}}), "the schema is no JSON"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_text(
    make: Callable[[], Any], why: str
) -> None:
    """Before anything runs."""
    with pytest.raises(ConstraintError, match=rf"(?s){why}"):
        Guide(make())


def test_constraint_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit bounds how long the event loop is held."""
    words = Regex("|".join(f"word {number}" for number in range(500)))
    assert Guide(words).allowed[ord("w")]
    monkeypatch.setattr(grammar, "_COMPILE_FUEL", 1000)
    grammar._library.cache_clear()
    grammar._compiled.cache_clear()
    with pytest.raises(ConstraintError, match=r"too big.*simplify it"):
        Guide(words)
    grammar._library.cache_clear()


def test_constraint_that_gets_too_large_on_the_way_ends_there() -> None:
    """Small to write down and easily begun, but its states are too many."""
    guide = Guide(Regex("((a?){200}){200}a"))
    with pytest.raises(ConstraintError, match="too many expressions"):
        for _ in range(300):
            guide.advance(ord("a"))


def test_refusal_of_a_long_expression_is_short() -> None:
    """Nobody reads a megabyte in a log."""
    with pytest.raises(ConstraintError) as caught:
        Guide(Regex("a" * 100_000 + "("))
    assert len(str(caught.value).split(" cannot be understood")[0]) < 300


def test_guides_of_one_expression_do_not_know_of_each_other() -> None:
    """It is compiled once, and followed by each from its beginning."""
    first, second = Guide(Regex("ab")), Guide(Regex("ab"))
    first.advance(ord("a"))
    assert first.allowed[ord("b")]
    assert second.allowed[ord("a")]
    assert not second.allowed[ord("b")]
    with pytest.raises(ConstraintError, match="does not allow byte 120"):
        second.advance(ord("x"))


def test_byte_0_in_the_middle_is_a_dead_end() -> None:
    """It cannot be known beforehand; the error says what to do."""
    guide = Guide(Regex(r"a\x00b"))
    with pytest.raises(ConstraintError, match="no token may follow byte 97"):
        guide.advance(ord("a"))


def test_missing_library_is_told_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the first constraint is made an automaton, not on import."""
    grammar._library.cache_clear()
    grammar._compiled.cache_clear()
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ImportError, match=r"pip install 'aio-sched\[constrained\]'"):
        Regex("never seen before").automaton()


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "sequential"])
async def test_engine_writes_documents_of_a_schema(overlap: bool) -> None:
    """The tiny model knows no JSON, and cannot but write some."""
    async with running(rigged(), max_running=3, overlap=overlap) as engine:
        requests = [
            engine.submit(
                b"\1",
                SamplingParams(60, temperature=80, seed=seed, constraint=JsonSchema(PERSON)),
            )
            for seed in range(6)
        ]
        texts = [await read(engine, request) for request in requests]
    ended = [
        text.decode()
        for text, request in zip(texts, requests, strict=True)
        if request.finish is FinishReason.END_OF_TEXT
    ]
    assert len(set(ended)) > 2
    assert all(is_person(text) for text in ended)
