"""Frames survive the wire, and what is no frame is refused."""

from __future__ import annotations

import msgspec
import pytest

from fathom.batching.request import Output, Request, SamplingParams, ThinkingParams, TokenLogprob
from fathom.serve import messages

REQUEST = Request("a", (1, 2, 3), SamplingParams(max_tokens=7, seed=-(2**63), thinking=ThinkingParams(6, 100)))
OUTPUT = Output("a", (5,), "stop", 3, 2, (TokenLogprob(5, -0.25, ((5, -0.25), (9, -1.5))),))


def body_of(message: messages.Message) -> bytes:
    frame = messages.pack(message)
    header, body = frame[: messages.LENGTH_BYTES], frame[messages.LENGTH_BYTES :]
    assert messages.frame_bytes(header) == len(body)
    return body


@pytest.mark.parametrize(
    "message",
    [
        messages.Hello("dir", threads=2),
        messages.Add((REQUEST, REQUEST)),
        messages.Abort("a"),
        messages.Shutdown(),
        messages.Ping(),
        messages.Look(3, "timeline", "both-1", 1000),
        messages.Rebalance(4),
        messages.Hello("dir", layout=(1, 2, 1, 2), beat_s=0.5, silent_beats=3),
    ],
)
def test_a_message_to_the_worker_arrives_as_it_was(message: messages.ToWorker) -> None:
    assert messages.unpack_to_worker(body_of(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        messages.Ready(
            vocab_size=9, context=8, fingerprint="fp", load_s=0.5, max_sequences=4, backends={"route": "cpu"}
        ),
        messages.Tokens([OUTPUT, Output("b", read_tokens=64)], 0.01),
        messages.Refused("a", "too long", param="prompt", code="context_length_exceeded"),
        messages.Stats(running=1),
        messages.Stats(op_s={"forward": 0.5}, experts=messages.Experts(1.25, (3, 5), 1, 1.5)),
        messages.Seen(3, b"[]"),
        messages.Seen(4, error="eplb is off"),
        messages.Failed("no weights", 2),
        messages.Pong(),
        messages.Challenge(b"nonce"),
    ],
)
def test_a_message_to_the_front_arrives_as_it_was(message: messages.ToFront) -> None:
    assert messages.unpack_to_front(body_of(message)) == message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",  # how a pickle begins
        msgspec.msgpack.encode({"type": "tokens", "outputs": []}),  # the other direction's
        msgspec.msgpack.encode({"type": "abort", "request_id": "a", "extra": 1}),
        msgspec.msgpack.encode({"type": "add", "request": {"id": "a", "prompt_token_ids": ["x"]}}),
    ],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        messages.unpack_to_worker(body)


def test_parameters_out_of_range_do_not_pass_the_socket() -> None:
    request = {"id": "a", "prompt_token_ids": [1], "params": {"temperature": -1.0}}
    with pytest.raises(Exception, match="temperature is -1.0"):
        messages.unpack_to_worker(msgspec.msgpack.encode({"type": "add", "requests": [request]}))


@pytest.mark.parametrize("size", [0, messages.MAX_FRAME_BYTES + 1])
def test_an_impossible_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="must be 1 to"):
        messages.frame_bytes(size.to_bytes(4, "big"))


def test_an_answer_is_all_that_a_stranger_may_say() -> None:
    assert messages.unpack_answer(body_of(messages.Answer(b"proof"))) == messages.Answer(b"proof")
    with pytest.raises(msgspec.DecodeError):
        messages.unpack_answer(body_of(messages.Hello("dir")))
    with pytest.raises(ValueError, match="must be 1 to 1024"):
        messages.frame_bytes((1025).to_bytes(4, "big"), messages.MAX_ANSWER_BYTES)
