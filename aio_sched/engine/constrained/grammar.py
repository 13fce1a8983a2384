"""Regular expressions and JSON schemas as constraints, through ``llguidance``.

The library is imported when the first such request is submitted; it comes with the extra
``constrained``. It computes masks of bytes in tens of microseconds, without a table made
beforehand. A constraint is compiled when its first request is submitted, on the event loop; that
of a large one, an enumeration of thousands of words for one, takes tens of milliseconds. To have it
compiled elsewhere, call ``await asyncio.to_thread(constraint.automaton)`` before.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from aio_sched.engine.errors import ConstraintError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    from aio_sched.engine.constrained.constraints import Automaton

__all__ = ["JsonSchema", "Regex"]

_MOST_TEXT = 200
# They bound how long the event loop is held: by a compilation 10 ms or so, by a mask 4 ms (50 000
# and 14 000 a millisecond, says the library).
_COMPILE_FUEL = 500_000
_MASK_FUEL = 50_000


@dataclass(frozen=True)
class Regex:
    r"""The whole text matches a regular expression, as by ``re.fullmatch`` with ``re.ASCII``.

    In the syntax of Rust's ``regex`` without look-around, ``\b`` and back-references; ``(?i)`` goes
    by Unicode. Texts are valid UTF-8.

    Attributes:
        pattern: the expression.
    """

    pattern: str

    def automaton(self) -> "Automaton":
        """Make the automaton of one request; the compiled expression is kept for the next one.

        Raises:
            ConstraintError: the expression is none, or one that this library cannot follow.
            ImportError: the extra ``constrained`` is not installed.
        """
        if not isinstance(self.pattern, str):
            raise ConstraintError(f"the pattern is a {type(self.pattern).__name__}; give str")
        return _ByteAutomaton(_compiled("regex", self.pattern).deep_copy())


@dataclass(frozen=True)
class JsonSchema:
    """The whole text is a JSON document that a schema accepts, written without white space.

    Attributes:
        schema: as ``json.load`` gives it. Keywords that the library does not know are refused.
    """

    schema: Mapping[str, Any]

    def automaton(self) -> "Automaton":
        """Make the automaton of one request; the compiled schema is kept for the next one.

        Raises:
            ConstraintError: the schema is none, or one that this library cannot follow.
            ImportError: the extra ``constrained`` is not installed.
        """
        try:
            text = json.dumps(self.schema)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConstraintError(f"the schema is no JSON: {error}") from error
        return _ByteAutomaton(_compiled("schema", text).deep_copy())


class _ByteAutomaton:
    """Asks a matcher; its tokens are the bytes, and its end of text is another number."""

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher

    def allowed(self) -> bytes:
        may_end = bytes([self._matcher.is_accepting()])
        if self._matcher.is_stopped():
            return may_end + bytes(255)
        bias = self._matcher.compute_logit_bias()
        if self._matcher.get_error().startswith("NoExtensionBias"):
            return bytes(256)  # a dead end, which for the library is an error
        _check(self._matcher, "the constraint cannot be followed any further")
        return may_end + bias[1:256]

    def advance(self, token: int) -> None:
        self._matcher.consume_token(token)
        _check(self._matcher, f"the constraint does not allow byte {token} here")


@lru_cache(maxsize=64)
def _compiled(kind: str, text: str) -> "LLMatcher":
    """Compile a constraint; the requests' automata are cheap copies of what this returns."""
    tokenizer, limits = _library()
    from llguidance import LLMatcher, regex_to_lark

    try:
        if kind == "regex":
            _check_last_escape(text)
            expression = regex_to_lark(text, use_ascii="dws")
            grammar = LLMatcher.grammar_from_lark(f"start: /{expression}/")
        else:
            grammar = LLMatcher.grammar_from_json_schema(
                text, overrides={"whitespace_flexible": False}
            )
    except ValueError as error:
        raise ConstraintError(f"{kind} {_short(text)} cannot be understood: {error}") from error
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    _check(matcher, f"{kind} {_short(text)} cannot be understood")
    return matcher


@cache
def _library() -> "tuple[LLTokenizer, LLParserLimits]":
    try:
        from llguidance import LLParserLimits, LLTokenizer
    except ImportError as error:
        raise ImportError(
            "Regex and JsonSchema need llguidance; install it: pip install 'aio-sched[constrained]'"
        ) from error
    limits = LLParserLimits(
        initial_lexer_fuel=_COMPILE_FUEL, step_lexer_fuel=_MASK_FUEL, verbose_errors=False
    )
    return LLTokenizer("byte"), limits


def _check(matcher: "LLMatcher", problem: str) -> None:
    if matcher.is_error():
        raise ConstraintError(f"{problem}: {matcher.get_error()}; correct or simplify it")


def _check_last_escape(expression: str) -> None:
    """Refuse what the library would drop without a word."""
    if (len(expression) - len(expression.rstrip("\\"))) % 2:
        raise ValueError("it ends within an escape; write its last backslash twice")


def _short(text: str) -> str:
    return repr(text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + "...")
