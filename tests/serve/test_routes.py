"""The real `openai` client against the real front: what it sends is taken, what it reads is there."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import openai
import pytest

from fathom.batching.request import sibling_seed
from tests.serve.conftest import Running

USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20)


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": text}], **more}


def test_a_chat_has_thinking_answer_usage_and_timings(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(**ask("hi"))
    (choice,) = reply.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "You said: hi", "stop")
    assert choice.message.reasoning_content == choice.message.reasoning == "Let me think step by step."
    usage, timings = reply.usage, reply.timings
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
    assert usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens == usage.prompt_tokens
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_cache_hit_tokens
    assert timings["predicted_n"] == usage.completion_tokens and timings["time_to_first_token_ms"] > 0
    assert reply.system_fingerprint == "scripted" and reply.id.startswith("chatcmpl-")


def test_a_stream_adds_up_to_the_whole_reply(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ask("emoji", seed=1))
    chunks = list(client.chat.completions.create(**ask("emoji", seed=1), stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(d.content or "" for d in deltas) == whole.choices[0].message.content == "naïve 👩‍🚀 数学 é"
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == whole.choices[0].message.reasoning
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    assert deltas[0].role == "assistant" and len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(**ask("hi"), stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in chunks)
    assert last.choices == [] and last.usage.total_tokens > 0


def test_progress_moves_from_queued_to_done(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(**ask("hi " * 100), stream=True, stream_options={"include_progress": True})
    seen = [chunk.fathom for chunk in stream]
    phases = list(dict.fromkeys(step["phase"] for step in seen))
    assert phases == ["queued", "reading", "thinking", "answering", "done"]
    read = [step["prompt_done"] for step in seen]
    assert read == sorted(read) and read[-1] == seen[-1]["prompt_tokens"] and len(set(read)) > 2
    assert (
        seen[-1]["context_used"] == seen[-1]["prompt_tokens"] + seen[-1]["reasoning_tokens"] + seen[-1]["answer_tokens"]
    )


@pytest.mark.parametrize(
    "more",
    [
        {"model": "deepseek-chat"},
        {"reasoning_effort": "none"},
        {"extra_body": {"thinking": {"type": "disabled"}}},
        {"model": "deepseek-reasoner", "extra_body": {"thinking": {"type": "disabled"}}},
    ],
)
def test_thinking_can_be_switched_off(client: openai.OpenAI, more: dict[str, Any]) -> None:
    reply = client.chat.completions.create(**{**ask("hi"), **more})
    assert reply.choices[0].message.content == "You said: hi"
    assert reply.choices[0].message.reasoning_content is None
    assert reply.usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize(
    "more",
    [
        {"model": "deepseek-reasoner"},
        {"reasoning_effort": "low"},
        {"model": "deepseek-chat", "extra_body": {"thinking": {"type": "enabled"}}},
    ],
)
def test_thinking_can_be_switched_on(client: openai.OpenAI, more: dict[str, Any]) -> None:
    reply = client.chat.completions.create(**{**ask("hi"), **more})
    assert reply.choices[0].message.reasoning_content == "Let me think step by step."


def test_a_thinking_budget_holds(client: openai.OpenAI) -> None:
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 5}}
    reply = client.chat.completions.create(**ask("deep"), extra_body=thinking)
    assert (
        reply.usage.completion_tokens_details.reasoning_tokens == 5
    )  # and the token that ends it, which is no thought


def test_siblings_share_a_prompt_and_each_is_a_lone_one_with_its_seed(client: openai.OpenAI) -> None:
    """Sixteen of them, of which four run at a time."""
    asked = ask("noise", temperature=1, max_tokens=12)
    reply = client.chat.completions.create(**asked, seed=7, n=16)
    texts = [choice.message.reasoning for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == list(range(16)) and len(set(texts)) == 16
    for index in (0, 1, 15):
        lone = client.chat.completions.create(**asked, seed=sibling_seed(7, index))
        assert texts[index] == lone.choices[0].message.reasoning
        assert reply.usage.prompt_tokens == lone.usage.prompt_tokens
    assert reply.usage.completion_tokens == 16 * 12


def test_siblings_compute_their_prompt_once(client: openai.OpenAI, server: Running) -> None:
    def copied() -> float:
        return float(re.findall(r"^fathom_cache_pages_copied (\S+)$", server.http.get("/metrics").text, re.M)[0])

    before = copied()
    prompt = list(range(20, 40))  # two pages of 8 tokens, and half of one
    client.completions.create(model="scripted", prompt=prompt, n=4, max_tokens=3, temperature=1)
    deadline = time.monotonic() + 5
    while copied() - before != 3:  # the half page was shared: all but the last to write into it got a copy
        assert time.monotonic() < deadline, copied() - before
        time.sleep(0.05)


def test_siblings_stream_side_by_side(client: openai.OpenAI) -> None:
    texts = ["", "", ""]
    ends = []
    for chunk in client.chat.completions.create(**ask("noise", temperature=1, seed=7, max_tokens=9, n=3), stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += getattr(choice.delta, "reasoning", None) or ""
        ends += [choice.index] if choice.finish_reason else []
    assert sorted(ends) == [0, 1, 2] and len(set(texts)) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_is_never_shown(client: openai.OpenAI, server: Running, stream: bool) -> None:
    request = ask("count", stop=["4 5", "zz"], reasoning_effort="none")
    if stream:
        chunks = list(client.chat.completions.create(**request, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        choice = client.chat.completions.create(**request).choices[0]
        text, reason = choice.message.content, choice.finish_reason
    assert (text, reason) == ("1 2 3 ", "stop")
    assert server.server.client.in_flight == 0


def test_max_tokens_ends_a_reply(client: openai.OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        reply = client.chat.completions.create(**ask("long", **{name: 11}))
        assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (11, "length")


def test_without_a_limit_a_reply_may_fill_the_context(client: openai.OpenAI) -> None:
    usage = client.chat.completions.create(**ask("long")).usage
    assert usage.total_tokens == 512


def test_logprobs_have_openais_shape(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**ask("hi", logprobs=True, top_logprobs=2)).choices[0]
    assert "".join(item.token for item in choice.logprobs.content) == choice.message.content
    assert bytes(b for item in choice.logprobs.content for b in item.bytes).decode() == choice.message.content
    assert all(len(item.top_logprobs) == 2 and item.logprob == -0.5 for item in choice.logprobs.content)
    assert "".join(item["token"] for item in choice.logprobs.reasoning_content) == choice.message.reasoning


def test_logprobs_stream(client: openai.OpenAI) -> None:
    tokens = []
    for chunk in client.chat.completions.create(**ask("emoji", logprobs=True, reasoning_effort="none"), stream=True):
        if chunk.choices[0].logprobs is not None:
            tokens += chunk.choices[0].logprobs.content
    assert bytes(b for item in tokens for b in item.bytes).decode() == "naïve 👩‍🚀 数学 é"


def test_a_prefix_is_continued(server: Running) -> None:
    beta = openai.OpenAI(base_url=f"{server.url}/beta", api_key="none", max_retries=0)
    final = {"role": "assistant", "content": "The answer is", "prefix": True}
    request = {"model": "deepseek-chat", "messages": [*USER, final]}
    tokens = server.http.post("/tokenize", json={"messages": [*USER, final], "thinking": {"type": "disabled"}}).json()
    assert server.http.post("/detokenize", json={"tokens": tokens["tokens"]}).json()["prompt"].endswith("The answer is")
    reply = beta.chat.completions.create(**request)
    assert reply.usage.prompt_tokens == tokens["count"] and not reply.choices[0].message.content.startswith(
        "The answer"
    )


def test_a_reply_can_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(**ask("hi")).choices[0].message.model_dump()
    reply = client.chat.completions.create(
        model="scripted", messages=[*USER, message, {"role": "user", "content": "again"}]
    )
    assert reply.choices[0].message.content == "You said: again"


def test_completions_take_texts_and_token_ids(client: openai.OpenAI) -> None:
    ids = [3, *range(100, 140)]
    reply = client.completions.create(model="scripted", prompt=[ids, ids[:5]], max_tokens=4, n=2)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert reply.usage.prompt_tokens == len(ids) + 5 and reply.usage.completion_tokens == 16
    for prompt in ("some text", ["some", "texts"], ids):
        assert client.completions.create(model="scripted", prompt=prompt, max_tokens=4).choices[0].text


def test_a_streamed_completion_adds_up(client: openai.OpenAI) -> None:
    request = {"model": "scripted", "prompt": "<｜User｜>hi", "max_tokens": 9, "logprobs": 1, "echo": False}
    whole = client.completions.create(**request).choices[0]
    chunks = list(client.completions.create(**request, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    offsets = [o for chunk in chunks if chunk.choices[0].logprobs for o in chunk.choices[0].logprobs.text_offset]
    assert len(offsets) == len(whole.logprobs.tokens) and offsets == sorted(offsets)
    assert client.completions.create(**request | {"logprobs": None, "echo": True}).choices[0].text.endswith(whole.text)


def test_the_model_is_listed_and_its_aliases_are_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["scripted"]
    found = client.models.retrieve("deepseek-reasoner")
    assert found.owned_by == "fathom" and found.context_length == 512
    assert found.parameters == 671_026_419_200 > found.parameters_activated  # counted from config.json alone
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("../../etc/passwd")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("body", "kind", "param", "code"),
    [
        (ask("hi", model="gpt-4"), openai.NotFoundError, "model", "model_not_found"),
        (ask("hi " * 600), openai.BadRequestError, "messages", "context_length_exceeded"),
        (ask("hi", temperature=3), openai.BadRequestError, "temperature", "invalid_value"),
        (ask("hi", n=17), openai.BadRequestError, "n", "invalid_value"),
        (ask("hi", tools=[{"type": "function"}]), openai.BadRequestError, "tools", "unsupported_parameter"),
        (ask("hi", top_logprobs=2), openai.BadRequestError, "top_logprobs", "invalid_value"),
        (ask("hi", stream_options={"include_usage": True}), openai.BadRequestError, "stream_options", "invalid_value"),
        (
            ask("hi", response_format={"type": "json_object"}),
            openai.BadRequestError,
            "response_format.type",
            "unsupported_parameter",
        ),
        (ask("hi", extra_body={"temprature": 1}), openai.BadRequestError, "temprature", "unknown_parameter"),
        (
            ask("hi", reasoning_effort="none", extra_body={"thinking": {"type": "enabled"}}),
            openai.BadRequestError,
            "reasoning_effort",
            "invalid_value",
        ),
    ],
)
def test_errors_become_the_right_exception(
    client: openai.OpenAI, body: dict[str, Any], kind: type[openai.APIStatusError], param: str, code: str
) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**body)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.request_id and caught.value.type == "invalid_request_error"


def test_hostile_text_stays_text(server: Running) -> None:
    response = server.http.post("/v1/chat/completions", json=ask("html"))
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.json()["choices"][0]["message"]["content"].startswith("<script>alert(1)</script>")


def test_null_means_not_given(server: Running) -> None:
    from fathom.serve.schema import ChatRequest, CompletionRequest

    chat = dict.fromkeys(ChatRequest.model_fields) | {"messages": USER}
    reply = server.http.post("/v1/chat/completions", json=chat)
    assert reply.status_code == 200, reply.text
    plain = dict.fromkeys(CompletionRequest.model_fields) | {"prompt": "hi", "max_tokens": 3}
    assert server.http.post("/v1/completions", json=plain).status_code == 200


def test_the_async_client_runs_many_at_once(server: Running) -> None:
    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

            async def one(number: int) -> str:
                text = ""
                async for chunk in await client.chat.completions.create(**ask(f"echo {number}"), stream=True):
                    text += chunk.choices[0].delta.content or ""
                return text

            return await asyncio.gather(*(one(number) for number in range(20)))

    assert asyncio.run(main()) == [str(number) for number in range(20)]


def test_events_survive_every_kind_of_line_end(server: Running) -> None:
    with server.http.stream("POST", "/v1/chat/completions", json=ask("newlines", stream=True)) as response:
        raw = b"".join(response.iter_raw())
    assert response.headers["content-type"].startswith("text/event-stream")
    events = raw.split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]]
    assert all(event.startswith(b"data: ") and b"\n" not in event and b"\r" not in event for event in events[:-1])
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == 'a\nb\r\nc\u2028d "quoted" \\ \x00 end'


def test_token_ids_come_when_asked_for(server: Running, client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**ask("hi"), extra_body={"return_token_ids": True}).choices[0]
    text = server.http.post("/detokenize", json={"tokens": choice.token_ids}).json()["prompt"]
    assert text == "Let me think step by step.</think>You said: hi<｜end▁of▁sentence｜>"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**ask("hi"), extra_body={"return_token_ids": True}, stream=True)
