"""A choice reads the same in any chunking; an exchange leaves nothing running, however it ends."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.batching.request import Output, Request, SamplingParams, TokenLogprob
from fathom.serve.stream import Choice
from fathom.tokenizer import Tokenizer
from tests.serve.conftest import Running

TOKENIZER = Tokenizer.train(["some plain words, and numbers 1 2 3"], 280, digits=1)
assert TOKENIZER.end_think_id is not None and TOKENIZER.think_id is not None and TOKENIZER.eos_id is not None
SLOW = {"messages": [{"role": "user", "content": "slow"}]}


def choice(prompt: list[int], **more: Any) -> Choice:
    return Choice(0, Request("r", tuple(prompt), SamplingParams()), TOKENIZER, **more)


def feed(one: Choice, tokens: list[int], sizes: list[int], end: str = "stop") -> tuple[str, str]:
    reasoning = content = ""
    at = 0
    for size in sizes:
        delta = one.feed(Output("r", tuple(tokens[at : at + size]), read_tokens=1))
        reasoning, content, at = reasoning + delta.reasoning, content + delta.content, at + size
    delta = one.feed(Output("r", tuple(tokens[at:]), finish_reason=end, read_tokens=1))  # type: ignore[arg-type]
    return reasoning + delta.reasoning, content + delta.content


@settings(max_examples=40)
@given(st.lists(st.integers(0, 5), max_size=30), st.booleans())
def test_the_deltas_add_up_to_the_choice(sizes: list[int], with_stop: bool) -> None:
    tokens = [
        *TOKENIZER.encode("why, 12"),
        TOKENIZER.end_think_id,
        *TOKENIZER.encode("so 3 and more"),
        TOKENIZER.eos_id,
    ]
    one = choice([1, TOKENIZER.think_id], stops=["and"] if with_stop else [])
    assert feed(one, tokens, sizes) == (one.reasoning, one.content)
    assert (one.reasoning, one.content) == ("why, 12", "so 3 " if with_stop else "so 3 and more")
    assert one.finish_reason == "stop" and one.phase == "done"


@settings(max_examples=40)
@given(st.lists(st.integers(1, 5), max_size=30))
def test_a_stop_string_cuts_at_the_same_token_in_any_chunking(sizes: list[int]) -> None:
    """Guesses ahead put several tokens into one output; those after the stop would not exist without them."""
    tokens = [*TOKENIZER.encode("so 3 and more, and numbers"), TOKENIZER.eos_id]
    seen = []
    for chunks in (sizes, [1] * len(tokens)):
        one, at = choice([1], stops=["and"]), 0
        for size in [*chunks, len(tokens)]:
            some = tuple(tokens[at : at + size])
            at += size
            if not one.stopped_by_text:
                end = "stop" if at >= len(tokens) else None
                one.feed(Output("r", some, end, logprobs=tuple(TokenLogprob(token, -1.0) for token in some)))  # type: ignore[arg-type]
        seen.append((one.token_ids, one.content_logprobs, one.content, one.finish_reason))
    assert seen[0] == seen[1]
    assert seen[0][2] == "so 3 " and len(seen[0][0]) < len(tokens)


def test_guesses_are_counted() -> None:
    one = choice([1])
    one.feed(Output("r", (9, 8), accepted_drafts=1, rejected_drafts=2))
    one.feed(Output("r", (9,), "length", rejected_drafts=3))
    assert (one.accepted_drafts, one.rejected_drafts) == (1, 5)


def test_phases_follow_the_tokens() -> None:
    one = choice([1, TOKENIZER.think_id])
    seen = [one.phase]
    end = TOKENIZER.end_think_id
    for output in (Output("r", read_tokens=1), Output("r", (9,)), Output("r", (end,)), Output("r", (9,), "length")):
        one.feed(output)
        seen.append(one.phase)
    assert seen == ["queued", "reading", "thinking", "answering", "done"]


def test_logprobs_go_where_their_tokens_go() -> None:
    one = choice([1, TOKENIZER.think_id])
    tokens = [*TOKENIZER.encode("a"), TOKENIZER.end_think_id, *TOKENIZER.encode("b"), TOKENIZER.eos_id]
    one.feed(Output("r", tuple(tokens), "stop", logprobs=tuple(TokenLogprob(token, -1.0) for token in tokens)))
    assert [item.token_id for item in one.reasoning_logprobs] == TOKENIZER.encode("a")
    assert [item.token_id for item in one.content_logprobs] == TOKENIZER.encode("b")


def test_an_unfinished_character_shows_only_at_the_end() -> None:
    one = choice([1])
    first = TOKENIZER.encode("é")[:1]
    assert one.feed(Output("r", tuple(first))).content == ""
    assert one.feed(Output("r", (), "length")).content == "\ufffd"


# --- the end of an exchange ------------------------------------------------------------------------------------------


def settled(server: Running, *, within_s: float = 20.0) -> bool:
    """Whether the engine has nothing left to do, soon enough."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        stats = server.server.client.stats
        if server.server.client.in_flight == 0 and stats.running == 0 and stats.waiting == 0 and stats.pages_used == 0:
            return True
        time.sleep(0.02)
    return False


def aborts(server: Running) -> float:
    return sum(server.server.front.metrics.aborted.values.values())


def raw_request(server: Running, body: dict[str, Any]) -> socket.socket:
    content = msgspec.json.encode(body)
    connection = socket.create_connection(("127.0.0.1", server.server.port), timeout=10)
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def started(server: Running, count: int = 1) -> None:
    until = time.monotonic() + 5
    while server.server.client.in_flight < count:
        assert time.monotonic() < until, "the request did not start"
        time.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_frees_its_request(server: Running, stream: bool, reset: bool) -> None:
    before = aborts(server)
    connection = raw_request(server, SLOW | {"stream": stream, "n": 2})
    if stream:
        assert b"200 OK" in connection.recv(100)
    started(server, 2)
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    left_s = time.monotonic()
    connection.close()
    assert settled(server), (server.server.client.in_flight, server.server.client.stats)
    assert time.monotonic() - left_s < 1.5
    assert aborts(server) == before + 1


def test_clients_that_leave_while_queued_never_run(server: Running) -> None:
    connections = [raw_request(server, SLOW | {"stream": True}) for _ in range(12)]  # the batch holds four
    started(server, 12)
    for connection in connections:
        connection.close()
    assert settled(server), (server.server.client.in_flight, server.server.client.stats)
    assert server.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]}).is_success


def test_stopping_one_stream_leaves_the_others(server: Running) -> None:
    texts: list[str] = []

    def read() -> None:
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=SLOW | {"max_tokens": 40}, timeout=20)
        texts.append(reply.json()["choices"][0]["finish_reason"])

    reader = threading.Thread(target=read)
    reader.start()
    started(server)
    raw_request(server, SLOW | {"stream": True}).close()
    reader.join()
    assert texts == ["length"] and settled(server)
