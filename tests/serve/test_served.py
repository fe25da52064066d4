"""Names, thinking, defaults and seeds: what a request means for this model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fathom.batching.request import SamplingParams, leaves_thinking_open
from fathom.errors import ConfigError, RequestError
from fathom.serve.errors import ApiError
from fathom.serve.schema import ChatRequest, CompletionRequest
from fathom.serve.served import ServedModel

USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def served(scripted_model: Path) -> ServedModel:
    return ServedModel(str(scripted_model))


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": USER, **fields})


def text(prompt: Any, **fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"prompt": prompt, **fields})


def test_names(served: ServedModel, scripted_model: Path) -> None:
    for name in (None, "scripted", "deepseek-chat", "deepseek-reasoner"):
        served.check_name(name)
    for name in ("nano", "", str(scripted_model), "scripted/../scripted"):
        with pytest.raises(ApiError, match="does not exist; served here: .*scripted"):
            served.check_name(name)
    assert ServedModel(str(scripted_model), "mine").name == "mine"


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({}, True),
        ({"model": "deepseek-chat"}, False),
        ({"model": "deepseek-reasoner"}, True),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, True),
        ({"model": "deepseek-chat", "reasoning_effort": "high"}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "none"}, False),
    ],
)
def test_who_decides_about_thinking(served: ServedModel, fields: dict[str, Any], thinks: bool) -> None:
    body = chat(**fields)
    assert served.wants_thinking(body) is thinks
    prompt = served.chat_prompt(body.messages, thinking=thinks)
    assert leaves_thinking_open(prompt, served.tokenizer.think_id, served.tokenizer.end_think_id) is thinks


def test_reasoning_of_either_name_reaches_the_prompt(served: ServedModel) -> None:
    prompts = []
    for name in ("reasoning", "reasoning_content"):
        body = chat(messages=[*USER, {"role": "assistant", name: "so far", "content": "", "prefix": True}])
        prompts.append(served.chat_prompt(body.messages, thinking=True))
    assert prompts[0] == prompts[1] and "so far" in served.tokenizer.decode(prompts[0])


def test_defaults_fill_in_and_requests_override(served: ServedModel) -> None:
    params = served.params(chat(), [1, 2], 100)
    assert (params.temperature, params.top_p, params.max_tokens) == (0.0, 1.0, 98)
    params = served.params(chat(temperature=0.5, top_p=0.9, top_k=4, min_p=0.1, seed=3, max_tokens=7), [1], 100)
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 4, 0.1)
    assert (params.seed, params.max_tokens) == (3, 7)


def test_odd_values_mean_what_their_senders_mean(served: ServedModel) -> None:
    assert served.params(chat(top_p=0), [1], 9).top_k == 1
    assert served.params(chat(top_k=-1), [1], 9).top_k == 0
    assert served.params(chat(max_tokens=4096), [1], 9).max_tokens == 8
    assert served.params(chat(seed=2**70 + 5), [1], 9).seed == served.params(chat(seed=5), [1], 9).seed
    assert served.params(chat(), [1], 9).seed != served.params(chat(), [1], 9).seed


def test_a_prompt_that_fills_the_context_is_refused(served: ServedModel) -> None:
    assert served.params(chat(), [1] * 8, 9).max_tokens == 1
    with pytest.raises(RequestError, match="maximum context length is 9 tokens") as caught:
        served.params(chat(), [1] * 9, 9)
    assert caught.value.code == "context_length_exceeded"


def limited(served: ServedModel, body: ChatRequest) -> SamplingParams:
    steering = served.steering(body, 512)
    prompt = served.chat_prompt(body.messages, thinking=steering.thinking, line=steering.line)
    return served.params(body, prompt, 512, steering)


@pytest.mark.parametrize(
    ("fields", "budget"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, 5),
        ({"think": {"budget_tokens": 5}}, 5),
        ({"reasoning_effort": "medium"}, 128),
        ({"reasoning_effort": "medium", "thinking": {"type": "enabled", "budget_tokens": 5}}, 5),
        ({"reasoning_effort": "none"}, 0),
        ({"thinking": {"type": "disabled", "budget_tokens": 5}}, 0),
        ({"reasoning_effort": "high", "max_tokens": 100}, 74),  # a quarter for the answer, one token to end the thought
        ({}, None),
        ({"thinking": {"type": "enabled"}}, None),
    ],
)
def test_budgets_are_enforced(served: ServedModel, fields: dict[str, Any], budget: int | None) -> None:
    limit = limited(served, chat(**fields)).thinking
    assert (None if limit is None else limit.budget_tokens) == budget
    if limit is not None:
        assert (limit.end_think_id, limit.think_id) == (served.tokenizer.end_think_id, served.tokenizer.think_id)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "none", "think": {"budget_tokens": 5}}, "think.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 4}, "think": {"budget_tokens": 5}}, "think.budget_tokens"),
    ],
)
def test_budgets_that_contradict_are_refused(served: ServedModel, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        served.steering(chat(**fields), 512)
    assert caught.value.param == param


def test_a_model_that_obeys_is_told_so_in_its_system_message(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.tokenizer, "settings", {**served.tokenizer.settings, "obeys_effort": True})
    parts = [{"type": "text", "text": "Be kind."}]
    for system, shown in (
        ([], "budget 64<｜User｜>"),
        ([{"role": "system", "content": "Be kind."}], "budget 64\nBe kind.<｜User｜>"),
        ([{"role": "system", "content": parts}], "budget 64\n\nBe kind.<｜User｜>"),
    ):
        body = chat(reasoning_effort="low", messages=[*system, *USER])
        prompt = served.chat_prompt(body.messages, thinking=True, line=served.steering(body, 512).line)
        assert shown in served.tokenizer.decode(prompt)


def test_text_begins_a_document_unless_the_tokenizer_says_not(served: ServedModel) -> None:
    (ids,) = served.text_prompts(text("hi"))
    assert ids == [*([served.tokenizer.bos_id] if served.bos else []), *served.tokenizer.encode("hi")]
    assert served.text_prompts(text([[7, 8], [9]])) == [[7, 8], [9]]
    with pytest.raises(RequestError, match="token id 99999"):
        served.text_prompts(text([99999]))


def test_fill_in_the_middle_wraps_both_ends(served: ServedModel) -> None:
    (ids,) = served.text_prompts(text("def f(", suffix="return x"))
    shown = served.tokenizer.decode(ids)
    assert shown.endswith("<｜fim▁begin｜>def f(<｜fim▁hole｜>return x<｜fim▁end｜>")


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="config.json"):
        ServedModel(str(tmp_path))
