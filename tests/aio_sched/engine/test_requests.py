"""What is asked of the engine, and how a request ends: plain values, no device."""

import struct
from typing import Any

import pytest

from aio_sched.engine.requests import FinishReason, Request, SamplingParams

EOS = 0


def request(prompt: bytes = b"abc", **params: Any) -> Request:
    """Make a request."""
    return Request(7, prompt, SamplingParams(**params))


def take(request: Request, *tokens: int) -> Request:
    """Publish tokens."""
    for token in tokens:
        request.take(token, EOS)
    return request


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_tokens": 0}, "max_tokens=0 is below 1"),
        ({"temperature": -0.1}, "temperature=-0.1 is not within 0 and 100"),
        ({"temperature": 101}, "temperature=101 is not"),
        ({"temperature": float("nan")}, "temperature=nan is not"),
        ({"seed": 2**63}, "seed=9223372036854775808 does not fit"),
        ({"seed": -(2**63) - 1}, "does not fit into 64 bits"),
        ({"stop": b""}, "stop is empty; use None"),
    ],
)
def test_parameter_out_of_range_is_refused(params: dict[str, Any], message: str) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=message):
        SamplingParams(**params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_tokens": 1.5}, "max_tokens=1.5 is a float; give int"),
        ({"max_tokens": None}, "max_tokens=None is a NoneType"),
        ({"temperature": "0.7"}, "temperature='0.7' is a str; give float | int"),
        ({"seed": 0.5}, "seed=0.5 is a float"),
        ({"stop": "\n"}, r"stop='\\n' is a str; give bytes | None"),
        ({"top_k": 3}, "unexpected keyword argument 'top_k'"),
    ],
)
def test_parameter_of_wrong_type_is_refused(params: dict[str, Any], message: str) -> None:
    """What would break in a step, beside other requests, does not get there."""
    with pytest.raises(TypeError, match=message):
        SamplingParams(**params)


@pytest.mark.parametrize("temperature", [0, 1, 0.1, 1e-300, 100.0])
def test_temperature_bits_are_those_of_a_double(temperature: float) -> None:
    """What travels as an integer is the temperature itself, not a rounded one."""
    bits = SamplingParams(temperature=temperature).temperature_bits
    assert struct.unpack("<d", struct.pack("<q", bits)) == (temperature,)


def test_length_ends_with_the_last_token_allowed() -> None:
    """Not one before, and what comes later is dropped."""
    assert take(request(max_tokens=2), 65).finish is None
    asked = take(request(max_tokens=2), 65, 66, 67)
    assert asked.finish is FinishReason.LENGTH
    assert asked.output == b"AB"
    assert list(asked.unread) == [65, 66]


def test_end_of_text_is_no_token_of_the_text() -> None:
    """It ends the request and is not delivered."""
    asked = take(request(), 65, EOS, 66)
    assert asked.finish is FinishReason.END_OF_TEXT
    assert asked.output == b"A"


@pytest.mark.parametrize(
    ("stop", "text", "output"),
    [
        (b"C", b"ABCD", b"ABC"),
        (b"AAB", b"AAAABC", b"AAAAB"),  # its beginning comes twice, one overlapping the other
        (b"ABAC", b"ABABACA", b"ABABAC"),
        (b"AA", b"AAA", b"AA"),
        (b"CA", b"ABC", b"ABC"),  # the prompt's "abc" and a part are no match
        (b"cA", b"ABC", b"ABC"),  # nor does it begin in the prompt
    ],
)
def test_stop_ends_after_its_first_occurrence(stop: bytes, text: bytes, output: bytes) -> None:
    """Stop strings may overlap themselves; only the continuation is searched."""
    asked = take(request(stop=stop), *text)
    assert asked.output == output
    assert asked.finish is (FinishReason.STOP if output.endswith(stop) else None)


def test_stop_in_the_last_token_allowed_counts_as_stop() -> None:
    """Both reasons hold; the text is complete."""
    assert take(request(max_tokens=2, stop=b"AB"), *b"AB").finish is FinishReason.STOP


def test_request_ends_once() -> None:
    """The first reason stays, with its error."""
    asked, error = request(), ValueError("first")
    asked.end(FinishReason.ERROR, error)
    asked.end(FinishReason.ABORTED)
    take(asked, 65)
    assert asked.finish is FinishReason.ERROR
    assert asked.error is error
    assert not asked.output


def test_ended_request_has_nothing_to_schedule() -> None:
    """Neither prefill nor decode, wherever it was."""
    asked = request()
    assert (asked.num_to_prefill, asked.can_decode) == (3, False)
    asked.num_prefilled, asked.num_scheduled = 3, 1
    assert (asked.num_to_prefill, asked.can_decode, asked.position) == (0, True, 3)
    asked.end(FinishReason.ABORTED)
    assert (asked.num_to_prefill, asked.can_decode) == (0, False)
    unread = request()
    unread.end(FinishReason.ABORTED)
    assert (unread.num_to_prefill, unread.can_decode) == (0, False)


def test_all_tokens_scheduled_leaves_nothing_to_decode() -> None:
    """The host schedules ahead of what it has seen, but never past ``max_tokens``."""
    asked = request(max_tokens=2)
    asked.num_prefilled, asked.num_scheduled = 3, 1
    assert asked.can_decode
    asked.num_scheduled = 2
    assert not asked.can_decode
