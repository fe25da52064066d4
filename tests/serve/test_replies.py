"""Counts and shapes of replies, from choices fed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fathom.batching.request import Output, Request, SamplingParams, TokenLogprob
from fathom.serve import replies
from fathom.serve.client import EngineClient
from fathom.serve.ledger import Arrival
from fathom.serve.messages import Hello
from fathom.serve.metrics import Metrics
from fathom.serve.replies import Frame
from fathom.serve.stream import Choice, Delta, Exchange, Waits
from fathom.tokenizer import Tokenizer


def exchange(tokenizer: Tokenizer, *prompts: tuple[int, ...]) -> Exchange:
    choices = [Choice(i, Request(f"r{i}", prompt, SamplingParams()), tokenizer) for i, prompt in enumerate(prompts)]
    return Exchange(EngineClient(Hello("none")), choices, Metrics(), Waits())


def test_siblings_share_their_prompts_count(tokenizer: Tokenizer) -> None:
    one = exchange(tokenizer, (1, 2, 3, 4), (1, 2, 3, 4), (9, 9))
    for choice, cached in zip(one.choices, (2, 4, 0), strict=True):
        choice.feed(Output("r", (40, 41), "stop", cached_tokens=cached))
    usage = replies.usage(one)
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (6, 6, 12)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2  # the first sibling's: the others read what it left
    assert usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"] == 6


def test_cached_tokens_are_told_apart_by_where_they_were(tokenizer: Tokenizer) -> None:
    one = exchange(tokenizer, (1, 2, 3, 4))
    one._open = {"r0": one.choices[0]}
    one._take(Arrival("r0", Output("r0", (40,), "stop", cached_tokens=3, disk_tokens=1)))
    usage = replies.usage(one)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 3, "disk_tokens": 1}
    assert usage["prompt_cache_hit_tokens"] == 3
    assert one._metrics.cached_tokens.values == {(("tier", "memory"),): 2, (("tier", "disk"),): 1}


def test_guesses_ahead_are_told_under_their_usual_names(tokenizer: Tokenizer) -> None:
    one = exchange(tokenizer, (1, 2), (1, 2))
    for choice in one.choices:
        choice.feed(Output("r", (40, 41, 42), "stop", accepted_drafts=2, rejected_drafts=1))
    details = replies.usage(one)["completion_tokens_details"]
    assert (details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]) == (4, 2)
    values = replies.timings(one)
    assert (values["draft_n"], values["draft_n_accepted"]) == (6, 4)


def test_timings_add_up_and_are_never_infinite(tokenizer: Tokenizer) -> None:
    one = exchange(tokenizer, (1, 2, 3))
    values = replies.timings(one)
    assert values["predicted_per_second"] is None
    one.choices[0].feed(Output("r0", (40, 41, 42), "stop"))
    clock = one.clock
    clock.begun, clock.first_token, clock.last_token = clock.arrived + 0.5, clock.arrived + 1.5, clock.arrived + 2.5
    values = replies.timings(one)
    assert (values["queued_ms"], values["prompt_ms"], values["predicted_ms"]) == (500, 1000, 1000)
    assert (values["time_to_first_token_ms"], values["total_ms"]) == (1500, 2500)
    assert (values["prompt_per_second"], values["predicted_per_second"]) == (3, 2)
    assert all(value is None or math.isfinite(value) for value in values.values())
    clock.begun = clock.first_token = clock.last_token = clock.arrived  # a clock that did not tick
    assert replies.timings(one)["predicted_per_second"] is None


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_a_frame_repeats_what_every_object_carries(kind: str) -> None:
    frame: Frame = getattr(Frame, kind)("m", "fp")
    reply, chunk = frame.reply([]), frame.chunk([], usage=None)
    assert chunk.pop("usage", "missing") is None
    assert reply | {"object": chunk["object"]} == chunk
    assert set(reply) == {"id", "object", "created", "model", "system_fingerprint", "choices"}


def test_thinking_answer_and_end_come_in_chunks_of_their_own(tokenizer: Tokenizer) -> None:
    parts = replies.chat_deltas(Delta(1, "why", "so", finish_reason="stop"), tokenizer, logprobs=False)
    assert [part["delta"] for part in parts] == [
        {"reasoning_content": "why", "reasoning": "why"},
        {"content": "so"},
        {},
    ]
    assert [part["finish_reason"] for part in parts] == [None, None, "stop"]
    assert replies.chat_deltas(Delta(0), tokenizer, logprobs=True) == []


def test_what_cannot_happen_has_a_finite_logprob(tokenizer: Tokenizer) -> None:
    item = TokenLogprob(40, -math.inf, ((40, -math.inf), (41, -1.0)))
    shown = replies.chat_logprobs(Delta(0, content_logprobs=[item]), tokenizer)["content"][0]
    assert shown["logprob"] == -9999.0 and [top["logprob"] for top in shown["top_logprobs"]] == [-9999.0, -1.0]
    assert bytes(shown["bytes"]) == tokenizer.token_bytes(40)


def test_offsets_of_old_logprobs_run_on(tokenizer: Tokenizer) -> None:
    items = [TokenLogprob(token, -1.0) for token in tokenizer.encode("words 1 2")]
    shown: dict[str, Any] = replies.text_logprobs(items, tokenizer, 10)
    assert shown["text_offset"][0] == 10 and "".join(shown["tokens"]) == "words 1 2"
    assert shown["text_offset"][-1] + len(shown["tokens"][-1]) == 10 + len("words 1 2")
