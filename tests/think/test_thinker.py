"""Strategies over a real engine with random weights: budgets hold, prompts are read once, results are the samples'."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from fathom.batching.request import SamplingParams, sibling_seed
from fathom.engine import LLM, EngineConfig
from fathom.engine.llm import Completion
from fathom.errors import InputError, RequestError
from fathom.think import Prices, Thinker
from fathom.think.votes import mean_logprob
from fathom.tokenizer import encode_chat

QUESTION = "What is two plus two?"
MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> LLM:
    return LLM(tiny_model, EngineConfig(num_pages=128))


@pytest.fixture
def thinker(llm: LLM) -> Thinker:
    return Thinker(llm, answer_tokens=9)


def thought(llm: LLM, one: Completion) -> list[int]:
    """Ids before the end of thinking; all, if it never came."""
    ids, end = list(one.token_ids), llm.tokenizer.end_think_id
    return ids[: ids.index(end)] if end in ids else ids


def test_no_budget_is_ever_exceeded_and_the_answer_has_its_room(llm: LLM, thinker: Thinker) -> None:
    """Random weights stop for no reason of their own: they would think for ever, and begin new thoughts."""
    rng = Random(5)
    for _ in range(25):
        budget = rng.randint(1, 40)
        one = thinker.think(
            QUESTION, budget_tokens=budget, seed=rng.randint(0, 99), temperature=2.0, ignore_eos=True
        ).samples[0]
        markers = [token for token in one.token_ids if token in (llm.tokenizer.think_id, llm.tokenizer.end_think_id)]
        assert markers[0] == llm.tokenizer.end_think_id and llm.tokenizer.think_id not in markers
        assert len(thought(llm, one)) == one.usage.reasoning_tokens <= budget
        assert len(one.token_ids) == budget + 1 + 9
        assert len(one.token_ids) - one.usage.reasoning_tokens - 1 >= 9


def test_without_effort_there_is_no_thought(llm: LLM, thinker: Thinker) -> None:
    for seed in range(8):
        for options in ({"effort": "none"}, {"budget_tokens": 0}):
            outcome = thinker.think(QUESTION, seed=seed, temperature=3.0, ignore_eos=True, max_tokens=60, **options)
            (one,) = outcome.samples
            assert outcome.reasoning == "" and one.usage.reasoning_tokens == outcome.account.thinking_tokens == 0
            assert llm.tokenizer.think_id not in one.token_ids
            assert one.usage.prompt_tokens == len(encode_chat(llm.tokenizer, MESSAGES, thinking=False))


def test_samples_read_their_prompt_once(tiny_model: Path) -> None:
    fresh = LLM(tiny_model, EngineConfig(num_pages=128))
    outcome = Thinker(fresh).vote(QUESTION, 6, budget_tokens=8, max_tokens=12, ignore_eos=True, stop_early=False)
    prompt = len(encode_chat(fresh.tokenizer, MESSAGES, thinking=True))
    account = outcome.account
    # the last token of a sample is never read again, hence eleven of twelve each
    assert fresh.engine.stats().computed_tokens == prompt + 6 * 11
    assert (account.prompt_tokens, account.computed_prompt_tokens) == (prompt, prompt)
    assert account.completion_tokens == 6 * 12 == account.thinking_tokens + account.answer_tokens
    assert account.thinking_tokens == sum(len(thought(fresh, one)) for one in outcome.samples)


def test_each_sample_is_a_lone_one_with_its_seed(llm: LLM, thinker: Thinker) -> None:
    outcome = thinker.vote(QUESTION, 4, seed=7, budget_tokens=6, ignore_eos=True, stop_early=False)
    for index in (0, 3):
        lone = thinker.think(QUESTION, seed=sibling_seed(7, index), budget_tokens=6, temperature=0.7, ignore_eos=True)
        assert lone.samples[0].token_ids == outcome.samples[index].token_ids
    again = thinker.vote(QUESTION, 4, seed=7, budget_tokens=6, ignore_eos=True, stop_early=False)
    assert [one.token_ids for one in again.samples] == [one.token_ids for one in outcome.samples]


ENDS = tuple(range(40, 80))  # random weights seldom end by themselves: these ids do it for them


def test_the_vote_is_the_samples_and_stopping_early_does_not_change_it(llm: LLM) -> None:
    """Answers are odd or even here, so that they agree now and then."""
    stopped, thinker = 0, Thinker(llm, answer_tokens=60)
    for seed in range(8):
        options = {"seed": seed, "budget_tokens": 4, "temperature": 1.0, "stop_token_ids": ENDS}
        options["normalise"] = lambda text: str(len(text) % 2)
        whole = thinker.vote(QUESTION, 7, stop_early=False, **options)
        early = thinker.vote(QUESTION, 7, **options)
        counted = Counter(str(len(one.text) % 2) for one in whole.samples if one.finish_reason == "stop")
        assert dict(whole.votes) == dict(counted) and sum(early.votes.values()) <= sum(whole.votes.values())
        assert (early.text, early.reasoning, early.winner) == (whole.text, whole.reasoning, whole.winner)
        stopped += early.account.aborted
        assert early.account.aborted == sum(one.finish_reason == "abort" for one in early.samples)
        assert early.account.completion_tokens == sum(len(one.token_ids) for one in early.samples)
    assert stopped > 0, "some vote was decided before its end"
    assert not thinker.llm.engine.has_work


def test_the_best_is_the_one_that_the_checker_takes(llm: LLM) -> None:
    thinker = Thinker(llm, answer_tokens=60)
    options = {"seed": 3, "budget_tokens": 4, "temperature": 1.5, "stop_token_ids": ENDS}
    samples = thinker.vote(QUESTION, 5, stop_early=False, **options).samples
    ended = [one for one in samples if one.finish_reason == "stop"]
    assert len({one.text for one in ended}) > 1
    wanted = ended[-1].text
    best = thinker.best_of(QUESTION, 5, check=lambda text: text == wanted, **options)
    assert best.text == wanted and best.winner == [one.text for one in samples].index(wanted)
    longest = thinker.best_of(QUESTION, 5, check=lambda text: len(text) / 1000, **options)
    assert len(longest.text) == max(len(one.text) for one in ended)


def test_without_a_checker_the_likeliest_is_the_best(llm: LLM, thinker: Thinker) -> None:
    outcome = thinker.best_of(QUESTION, 5, seed=4, budget_tokens=4, temperature=1.5, stop_token_ids=ENDS)
    assert sum(one.finish_reason == "stop" for one in outcome.samples) > 1
    scores = [
        mean_logprob(one.logprobs, llm.tokenizer.special.values()) if one.finish_reason == "stop" else float("-inf")
        for one in outcome.samples
    ]
    assert outcome.winner == scores.index(max(scores))  # type: ignore[type-var]
    assert all(len(one.logprobs) == len(one.token_ids) for one in outcome.samples)


class Told:
    """An LLM whose answers are written down, in the place of one with an engine."""

    def __init__(self, llm: LLM, answers: list[str]) -> None:
        self.tokenizer, self.engine, self._llm = llm.tokenizer, llm.engine, llm
        self.answers, self.asked = iter(answers), []

    def generate(self, prompts, params, ended=None):
        from dataclasses import replace

        self.asked += [self.tokenizer.decode(prompt) for prompt in prompts]
        (one,) = self._llm.generate(prompts, SamplingParams(max_tokens=1))
        return [replace(one, text=next(self.answers), finish_reason="stop")]


def test_an_answer_is_revised_until_it_is_repeated(llm: LLM) -> None:
    told = Told(llm, ["5", "4", "4.", "9"])
    outcome = Thinker(told).revise(QUESTION, 6, effort="none")  # type: ignore[arg-type]
    assert (outcome.text, outcome.winner, len(outcome.samples)) == ("4.", 2, 3)
    assert "<｜Assistant｜></think>5<｜end▁of▁sentence｜><｜User｜>Check this answer" in told.asked[1]
    assert outcome.account.prompt_tokens == sum(one.usage.prompt_tokens for one in outcome.samples)
    assert Thinker(Told(llm, ["5", ""])).revise(QUESTION, 6).text == "5"  # type: ignore[arg-type]
    assert Thinker(Told(llm, ["1", "2", "3"])).revise(QUESTION, 3).winner == 2  # type: ignore[arg-type]


def test_prices_and_bytes_are_in_the_account(llm: LLM) -> None:
    outcome = Thinker(llm, prices=Prices(per_hour=3600.0)).think(QUESTION, budget_tokens=5, max_tokens=12)
    account = outcome.account
    assert account.cost == account.seconds > 0
    assert account.kv_byte_seconds == account.kv_token_seconds * 2 * (16 + 4) * 4, "layers, latent and rotary key, fp32"


def test_what_cannot_be_is_refused(thinker: Thinker) -> None:
    with pytest.raises(InputError, match="temperature is 0"):
        thinker.vote(QUESTION, 3, temperature=0)
    with pytest.raises(InputError, match="n is 0"):
        thinker.best_of(QUESTION, 0)
    with pytest.raises(InputError, match="'temprature' is no sampling parameter"):
        thinker.think(QUESTION, temprature=1)
    with pytest.raises(InputError, match="'thinking'"):
        thinker.think(QUESTION, thinking=None)
    with pytest.raises(RequestError, match="context holds 256"):
        thinker.think("word " * 300, budget_tokens=3)
    with pytest.raises(InputError, match="answer_tokens is 0"):
        Thinker(thinker.llm, answer_tokens=0)
