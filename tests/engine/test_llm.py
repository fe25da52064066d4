"""Text in, text out, in one process."""

import pytest

from fathom.batching.request import SamplingParams, ThinkingParams
from fathom.engine.engine import EngineConfig
from fathom.engine.llm import LLM, Timings
from fathom.errors import ConfigError, RequestError
from fathom.tokenizer import encode_chat
from tests.engine.checkpoint import save_tiny

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
QUESTION = [{"role": "user", "content": "what is 2 + 3?"}]


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    save_tiny(directory)
    return LLM(directory, EngineConfig(num_pages=64))


def test_a_text_begins_with_its_first_token_and_ids_are_used_as_given(llm):
    ids = [llm.tokenizer.bos_id, *llm.tokenizer.encode("what is")]
    by_text, by_ids = llm.generate(["what is", ids], GREEDY)
    assert by_text.token_ids == by_ids.token_ids
    assert by_text.usage.prompt_tokens == len(ids)
    assert llm.generate("what is", GREEDY)[0].token_ids == by_text.token_ids


def test_completions_come_in_the_order_of_prompts_with_their_own_params(llm):
    params = [SamplingParams(max_tokens=n, seed=n, ignore_eos=True) for n in (5, 1, 3)]
    completions = llm.generate(["a", "b", "c"], params)
    assert [len(c.token_ids) for c in completions] == [5, 1, 3]
    assert [c.usage.completion_tokens for c in completions] == [5, 1, 3]
    assert {c.finish_reason for c in completions} == {"length"}


def test_chat_parts_thinking_from_the_answer(llm):
    thinking = ThinkingParams(end_think_id=llm.tokenizer.end_think_id, budget_tokens=4)
    params = SamplingParams(max_tokens=9, ignore_eos=True, seed=3, thinking=thinking)
    answer = llm.chat(QUESTION, params=params)
    end = answer.token_ids.index(llm.tokenizer.end_think_id)
    assert end <= 4
    assert answer.reasoning == llm.tokenizer.decode(answer.token_ids[:end], skip_special=True)
    assert answer.text == llm.tokenizer.decode(answer.token_ids[end + 1 :], skip_special=True)
    assert answer.usage.reasoning_tokens == end


def test_chat_without_thinking_is_all_answer(llm):
    answer = llm.chat(QUESTION, thinking=False, params=GREEDY)
    prompt = encode_chat(llm.tokenizer, QUESTION, thinking=False)
    assert answer.token_ids == llm.generate([prompt], GREEDY)[0].token_ids
    assert answer.usage.prompt_tokens == len(prompt)
    assert (answer.reasoning, answer.usage.reasoning_tokens) == ("", 0)
    assert answer.text == llm.tokenizer.decode(answer.token_ids, skip_special=True)


def test_a_second_question_finds_the_first_one_s_pages(llm):
    prompt = [7] * 40
    first, second = (llm.generate([prompt], GREEDY)[0] for _ in range(2))
    assert (first.usage.cached_tokens, second.usage.cached_tokens) == (0, 32)
    assert first.token_ids == second.token_ids


def test_timings_are_in_order(llm):
    (completion,) = llm.generate("what", GREEDY)
    timings = completion.timings
    assert 0 <= timings.queue_s <= timings.first_token_s <= timings.total_s
    assert timings.tokens_per_s(6) == pytest.approx(5 / (timings.total_s - timings.first_token_s))
    assert Timings(0.0, 1.0, 1.0).tokens_per_s(1) == 0.0


def test_if_one_prompt_cannot_be_served_none_is_and_nothing_stays_behind(llm):
    with pytest.raises(RequestError):
        llm.generate([[5], [10**6]], GREEDY)
    assert not llm.engine.has_work
    with pytest.raises(RequestError, match="params has 1 entries for 2 prompts"):
        llm.generate(["a", "b"], [GREEDY])


def test_an_interrupt_leaves_nothing_running(llm, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(llm.engine, "step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            llm.generate("what", GREEDY)
    assert not llm.engine.has_work
    assert len(llm.generate("what", GREEDY)[0].token_ids) == 6


def test_guesses_ahead_change_the_usage_and_not_the_answers(tmp_path):
    save_tiny(tmp_path)
    params = SamplingParams(temperature=0.7, max_tokens=12, ignore_eos=True, seed=4, logprobs=1)
    found = []
    for spec in ("off", 2):
        other = LLM(tmp_path, EngineConfig(num_pages=64, spec=spec))
        found.append(other.generate(["what is", "2 + 3"], params))
    assert [c.token_ids for c in found[0]] == [c.token_ids for c in found[1]]
    assert all(c.usage.accepted_prediction_tokens + c.usage.rejected_prediction_tokens == 0 for c in found[0])
    assert all(c.usage.accepted_prediction_tokens + c.usage.rejected_prediction_tokens > 0 for c in found[1])
    assert all(len(c.logprobs) == len(c.token_ids) for c in found[1])


def test_guesses_need_a_module(tmp_path):
    save_tiny(tmp_path, mtp=False)
    assert LLM(tmp_path, EngineConfig(num_pages=64)).engine.policy.fixed == 0
    with pytest.raises(ConfigError, match="no MTP module"):
        LLM(tmp_path, EngineConfig(num_pages=64, spec=1))


def test_whoever_is_not_wanted_any_more_is_given_up(llm):
    params = [SamplingParams(max_tokens=n, seed=n, ignore_eos=True) for n in (30, 4, 8)]
    told = []

    def ended(place, one):
        told.append((place, one))
        return [0, 1] if place == 1 else []

    completions = llm.generate(["a", "b", "c"], params, ended)
    assert [c.finish_reason for c in completions] == ["abort", "length", "length"]
    assert told == [(1, completions[1]), (2, completions[2])]
    assert 0 < completions[0].usage.completion_tokens < 10
    assert completions[0].token_ids == llm.generate("a", params[0])[0].token_ids[: len(completions[0].token_ids)]
    assert not llm.engine.has_work


def test_a_thought_that_is_over_is_not_begun_anew(llm):
    """Random weights choose the marker now and then; not where the only thought is the prompt's."""
    think, end = llm.tokenizer.think_id, llm.tokenizer.end_think_id
    free = dict(max_tokens=120, ignore_eos=True, temperature=4.0)
    prompts = [encode_chat(llm.tokenizer, QUESTION, thinking=thinking) for thinking in (True, False)] * 8
    plain = [SamplingParams(seed=n, **free) for n in range(16)]
    assert any(think in c.token_ids for c in llm.generate(prompts, plain))
    limited = [SamplingParams(seed=n, thinking=ThinkingParams(end, 5, think), **free) for n in range(16)]
    for number, one in enumerate(llm.generate(prompts, limited)):
        assert think not in one.token_ids and one.usage.reasoning_tokens <= (0 if number % 2 else 5)
        assert number % 2 or end in one.token_ids[:6]
