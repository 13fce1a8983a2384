"""Messages survive as bytes, and what is no message is refused by name."""

import json
import struct
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aio_sched.disaggregated.errors import LinkProtocolError, PeerMismatchError
from aio_sched.disaggregated.fingerprint import ModelIdentity, bytes_of, identity_of
from aio_sched.disaggregated.frames import (
    HEAD,
    MAX_HEADER,
    VERSION,
    Head,
    decoded,
    encoded,
    head_of,
)
from aio_sched.disaggregated.messages import (
    Abort,
    Bye,
    Ended,
    HandOver,
    Hello,
    Message,
    Ping,
    Pong,
    Progress,
    Refused,
)
from aio_sched.engine.experts import load_mixture
from aio_sched.engine.requests import FinishReason, SamplingParams
from tests.aio_sched.engine.test_equivalence import params
from tests.aio_sched.engine.tiny import rigged

ENDED = Ended(3, FinishReason.ERROR, "RuntimeError('ü')")
MESSAGES: list[Message] = [
    Hello("decode", "me", ModelIdentity("{}", "float32", "abc"), 7),
    Progress(((1, b"\x01\xff"), (2, b"")), (ENDED, Ended(4, FinishReason.STOP))),
    Abort(5),
    Ping(),
    Pong(),
    Refused("no"),
    Bye(),
]


def sent(message: Message) -> Message:
    """Let a message become bytes and a message again."""
    front, body = encoded(message)
    head = head_of(front[: HEAD.size], "peer", 1 << 20)
    assert len(front) == HEAD.size + head.header_size
    assert sum(map(len, body)) == head.body_size
    return decoded(head, front[HEAD.size :], bytearray(b"".join(body)), "peer")


def handed(sampling: SamplingParams, num_tokens: int = 3) -> HandOver:
    """Make a hand-over with rows that are all different."""
    keys = torch.randn(num_tokens, 2, 2, 4, generator=torch.Generator().manual_seed(num_tokens))
    return HandOver(9, bytes(range(1, num_tokens + 1)), sampling, 65, keys, -keys)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda each: type(each).__name__)
def test_message_is_the_same_behind_the_bytes(message: Message) -> None:
    """Each kind that has no rows."""
    assert sent(message) == message


@given(params, st.integers(1, 9))
def test_hand_over_is_the_same_to_the_last_bit(sampling: SamplingParams, num_tokens: int) -> None:
    """Parameters, prompt and rows, at every alignment."""
    message = handed(sampling, num_tokens)
    got = sent(message)
    assert isinstance(got, HandOver)
    assert (got.id, got.prompt, got.params) == (9, message.prompt, sampling)
    assert got.first_token == 65
    assert bytes_of(got.keys) == bytes_of(message.keys)
    assert bytes_of(got.values) == bytes_of(message.values)
    assert got.keys.shape == message.keys.shape


def test_front_of_something_else_is_refused() -> None:
    """Another protocol, another version, and sizes beyond what is taken, before memory is."""
    with pytest.raises(LinkProtocolError, match=r"peer sent b'GET ' where a frame begins"):
        head_of(b"GET / HTTP/1.1\r\n\r\n"[: HEAD.size].ljust(HEAD.size), "peer", 10)
    newer = HEAD.pack(b"AIOS", VERSION + 1, 5, 4, 0)
    with pytest.raises(PeerMismatchError, match=f"version {VERSION + 1} .* this side {VERSION}"):
        head_of(newer, "peer", 10)
    for sizes in ((1 << 30, 0), (0, 11)):
        with pytest.raises(LinkProtocolError, match=r"a frame of .* bytes; at most"):
            head_of(HEAD.pack(b"AIOS", VERSION, 5, *sizes), "peer", 10)


@pytest.mark.parametrize(
    ("kind", "header", "body"),
    [
        (99, None, b""),
        (5, None, b"x"),
        (1, ["decode"], b""),
        (1, ["decode", "me", {"colour": 1}, 1], b""),
        (3, [[[1, "zz"]], []], b""),
        (3, [[], [[1, "bored", ""]]], b""),
        (2, {"id": 1}, b""),
    ],
)
def test_damaged_frame_is_refused(kind: int, header: Any, body: bytes) -> None:
    """An unknown kind, missing or wrong fields, a body where there is none."""
    text = json.dumps(header).encode()
    with pytest.raises(LinkProtocolError, match=f"peer sent a damaged frame of kind {kind}"):
        decoded(Head(kind, len(text), len(body)), text, bytearray(body), "peer")
    with pytest.raises(LinkProtocolError, match="damaged"):
        decoded(Head(kind, 1, 0), b"{", bytearray(), "peer")
    with pytest.raises(LinkProtocolError, match="damaged"):
        decoded(Head(kind, MAX_HEADER, 0), b"[" * MAX_HEADER, bytearray(), "peer")


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [4, 2, 2, 4]},
        {"shape": [3, 2, 8]},
        {"shape": [-3, 2, 2, -4]},
        {"dtype": "int64"},
        {"max_tokens": 0},
        {"temperature": "hot"},
        {"seed": 1 << 70},
    ],
)
def test_hand_over_that_does_not_add_up_is_refused(change: dict[str, Any]) -> None:
    """Rows of another size than was said, or parameters that nobody may ask for."""
    front, body = encoded(handed(SamplingParams()))
    header = json.dumps(json.loads(front[HEAD.size :]) | change).encode()
    memory = bytearray(b"".join(body))
    with pytest.raises(LinkProtocolError, match="damaged frame of kind 2"):
        decoded(Head(2, len(header), len(memory)), header, memory, "peer")


def test_head_has_one_size_on_every_machine() -> None:
    """Network byte order, no padding."""
    assert struct.calcsize(HEAD.format) == HEAD.size == 20


def test_identity_tells_which_part_differs() -> None:
    """Other weights of the same sizes, and the same weights made twice."""
    model, other = rigged(), rigged()
    assert identity_of(model) == identity_of(other)
    next(other.parameters()).flatten()[0] += 1
    with pytest.raises(PeerMismatchError, match="peer has another model: its weights is"):
        identity_of(model).check(identity_of(other), "peer")
    half = identity_of(model, torch.float16)
    with pytest.raises(PeerMismatchError, match="dtype is float16 and ours is float32"):
        identity_of(model).check(half, "peer")


def test_identity_tells_mixtures_apart_that_have_the_same_weights() -> None:
    """How many experts a token is given is in no parameter."""
    model = load_mixture()
    ours = identity_of(model)
    model.mixture = replace(model.mixture, top_k=model.mixture.top_k - 1)
    with pytest.raises(PeerMismatchError, match="its config is"):
        ours.check(identity_of(model), "peer")
