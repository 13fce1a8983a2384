"""Messages as frames of bytes: a fixed head, a JSON header, and raw bytes behind it.

    head     ``!4sHHIQ``: magic, version, kind, bytes of the header, bytes of the body
    header   what the message says, as JSON
    body     of a ``HandOver``: keys, values, prompt; empty otherwise

Every size is checked before memory is taken for it. What comes is not trusted to be well
formed, but whoever can connect can hand over requests: see ``sockets``.
"""

import json
import math
import struct
from enum import IntEnum
from typing import Any, NamedTuple

import torch

from aio_sched.disaggregated.errors import LinkProtocolError, PeerMismatchError
from aio_sched.disaggregated.fingerprint import ModelIdentity, bytes_of
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
from aio_sched.engine.requests import FinishReason, SamplingParams

__all__ = ["HEAD", "MAX_HEADER", "VERSION", "Head", "decoded", "encoded", "head_of"]

VERSION = 1
MAX_HEADER = 1 << 20
HEAD = struct.Struct("!4sHHIQ")
_MAGIC = b"AIOS"
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class _Kind(IntEnum):
    HELLO = 1
    HAND_OVER = 2
    PROGRESS = 3
    ABORT = 4
    PING = 5
    PONG = 6
    REFUSED = 7
    BYE = 8


class Head(NamedTuple):
    """What comes in front of each message."""

    kind: int
    header_size: int
    body_size: int


def encoded(message: Message) -> tuple[bytes, tuple[memoryview, ...]]:
    """Return a message's head and header, and its body in pieces.

    The pieces are the message's own memory: keep it until they are sent.
    """
    kind, header, body = _parts(message)
    text = json.dumps(header, separators=(",", ":")).encode()
    size = sum(map(len, body))
    return HEAD.pack(_MAGIC, VERSION, kind, len(text), size) + text, body


def head_of(data: bytes | bytearray, peer: str, max_body: int) -> Head:
    """Read a head.

    Args:
        data: ``HEAD.size`` bytes.
        peer: who sent it, for errors.
        max_body: bytes that a body may have.

    Raises:
        PeerMismatchError: another version of this protocol.
        LinkProtocolError: not of this protocol, or too large.
    """
    magic, version, kind, header_size, body_size = HEAD.unpack(data)
    if magic != _MAGIC:
        raise LinkProtocolError(f"{peer} sent {magic!r} where a frame begins; is it one of ours?")
    if version != VERSION:
        raise PeerMismatchError(
            f"{peer} speaks version {version} of the protocol and this side {VERSION}; "
            "install the same aio-sched on both sides"
        )
    if header_size > MAX_HEADER or body_size > max_body:
        raise LinkProtocolError(
            f"{peer} sent a frame of {header_size} and {body_size} bytes; at most {MAX_HEADER} "
            f"and {max_body} are taken"
        )
    return Head(kind, header_size, body_size)


def decoded(head: Head, header: bytes, body: bytearray, peer: str) -> Message:
    """Build the message of a frame; the tensors of a ``HandOver`` are views of ``body``.

    Raises:
        LinkProtocolError: the parts make no message.
    """
    try:
        return _message(_Kind(head.kind), json.loads(header), body)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise LinkProtocolError(f"{peer} sent a damaged frame of kind {head.kind}: {error}") from (
            error
        )


def _parts(message: Message) -> tuple[_Kind, Any, tuple[memoryview, ...]]:
    match message:
        case Hello():
            model = vars(message.model)
            return _Kind.HELLO, [message.role, message.name, model, message.places], ()
        case HandOver():
            return _Kind.HAND_OVER, _header_of(message), _body_of(message)
        case Progress():
            ended = [(each.id, each.reason.value, each.error) for each in message.ended]
            tokens = [(number, text.hex()) for number, text in message.tokens]
            return _Kind.PROGRESS, [tokens, ended], ()
        case Abort():
            return _Kind.ABORT, message.id, ()
        case Ping():
            return _Kind.PING, None, ()
        case Pong():
            return _Kind.PONG, None, ()
        case Refused():
            return _Kind.REFUSED, message.why, ()
        case Bye():
            return _Kind.BYE, None, ()


def _message(kind: _Kind, said: Any, body: bytearray) -> Message:
    if body and kind is not _Kind.HAND_OVER:
        raise ValueError(f"a body of {len(body)} bytes where there is none")
    match kind:
        case _Kind.HELLO:
            role, name, model, places = said
            return Hello(str(role), str(name), ModelIdentity(**model), int(places))
        case _Kind.HAND_OVER:
            return _hand_over(said, body)
        case _Kind.PROGRESS:
            tokens, ended = said
            return Progress(
                tuple((int(number), bytes.fromhex(text)) for number, text in tokens),
                tuple(Ended(int(n), FinishReason(why), str(error)) for n, why, error in ended),
            )
        case _Kind.ABORT:
            return Abort(int(said))
        case _Kind.PING:
            return Ping()
        case _Kind.PONG:
            return Pong()
        case _Kind.REFUSED:
            return Refused(str(said))
        case _Kind.BYE:
            return Bye()


def _header_of(message: HandOver) -> dict[str, Any]:
    params = message.params
    return {
        "id": message.id,
        "first_token": message.first_token,
        "shape": list(message.keys.shape),
        "dtype": str(message.keys.dtype).removeprefix("torch."),
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,  # JSON writes a float so that reading gives it back
        "seed": params.seed,
        "stop": None if params.stop is None else params.stop.hex(),
    }


def _body_of(message: HandOver) -> tuple[memoryview, ...]:
    return bytes_of(message.keys), bytes_of(message.values), memoryview(message.prompt)


def _hand_over(said: Any, body: bytearray) -> HandOver:
    stop = said["stop"]
    params = SamplingParams(
        said["max_tokens"],
        said["temperature"],
        said["seed"],
        None if stop is None else bytes.fromhex(stop),
    )
    shape = [int(size) for size in said["shape"]]
    dtype = _DTYPES[said["dtype"]]
    num_tokens, size = shape[0], math.prod(shape) * dtype.itemsize
    if len(shape) != 4 or min(shape) < 1 or len(body) != num_tokens + 2 * size:
        raise ValueError(f"a body of {len(body)} bytes for keys and values of {shape} {dtype}")
    # The prompt is behind them: a tensor begins at a multiple of its element's size.
    keys, values = (
        torch.frombuffer(body, dtype=dtype, count=size // dtype.itemsize, offset=at).view(shape)
        for at in (0, size)
    )
    prompt = bytes(memoryview(body)[2 * size :])
    return HandOver(int(said["id"]), prompt, params, int(said["first_token"]), keys, values)
