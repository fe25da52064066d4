"""More thought for better answers, at a price that is known afterwards.

    thinker = Thinker(LLM("nano"), prices=Prices(per_hour=0.05))
    outcome = thinker.vote("What is 384 + 2957?", n=8, budget_tokens=128)
    outcome.text, outcome.votes, outcome.account.cost

A question is a text or a conversation in OpenAI's form. Every sample is keyed by (seed, number): the same call gives
the same answer, whether or not the vote stopped early. All samples of one prompt read it once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import msgspec

from fathom.batching.request import SamplingParams, sibling_seed
from fathom.config.effort import with_control
from fathom.cost import cache_bytes_per_token
from fathom.engine.llm import LLM, Completion
from fathom.errors import InputError, RequestError
from fathom.think.account import Account, Prices, Work
from fathom.think.steering import ANSWER_TOKENS, REVISE, TEMPERATURE, Steering, share, steer
from fathom.think.votes import Best, Vote, mean_logprob, normalised
from fathom.tokenizer import encode_chat

Question = str | Sequence[Mapping[str, Any]]
Normalise = Callable[[str], str | None]
Check = Callable[[str], float]


@dataclass(frozen=True)
class Outcome:
    """An answer, and what it took. winner: number of the sample that it is. samples: all, in order of their numbers;
    those that were not needed any more have the finish_reason "abort". votes: of each answer, most first."""

    text: str
    reasoning: str
    winner: int
    samples: tuple[Completion, ...]
    account: Account
    votes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Asked:
    """A question made ready: its conversation, the prompt, and the parameters of the first sample."""

    messages: Sequence[Mapping[str, Any]]
    steering: Steering
    prompt: list[int]
    params: SamplingParams


@dataclass(frozen=True)
class _Sample:
    prompt: tuple[int, ...]
    completion: Completion

    @property
    def work(self) -> Work:
        """For the account; times count from the arrival, which siblings have in common."""
        one, usage, times = self.completion, self.completion.usage, self.completion.timings
        return Work(
            self.prompt, usage.cached_tokens, usage.reasoning_tokens, usage.completion_tokens,
            usage.rejected_prediction_tokens, times.queue_s, times.first_token_s, times.total_s,
            one.finish_reason == "abort",
        )  # fmt: skip


class Thinker:
    """Strategies of test-time compute over one LLM.

    Args: prices: for the account. answer_tokens: room of each answer, beside its thought; `max_tokens` is their sum.

    What every strategy takes: effort: none, low, medium, high or max. budget_tokens: the longest thought, wins over the
    effort's. seed, temperature and any other field of SamplingParams.
    """

    def __init__(self, llm: LLM, *, prices: Prices | None = None, answer_tokens: int = ANSWER_TOKENS) -> None:
        if answer_tokens < 1:
            raise InputError(f"answer_tokens is {answer_tokens}; it must be at least 1.")
        self.llm, self.prices, self.answer_tokens = llm, prices, answer_tokens

    def think(
        self, question: Question, *, effort: str | None = None, budget_tokens: int | None = None, **sampling: Any
    ) -> Outcome:
        """One answer."""
        asked = self._ask(question, effort, budget_tokens, {"temperature": 0.0} | sampling)
        started_s = perf_counter()
        return self._outcome(0, self._sample(asked, 1), started_s)

    def vote(
        self, question: Question, n: int = 5, *, effort: str | None = None, budget_tokens: int | None = None,
        normalise: Normalise = normalised, stop_early: bool = True, **sampling: Any,
    ) -> Outcome:  # fmt: skip
        """The answer that most of n samples give; of equals, that of the first sample.

        Args: normalise: answers that it makes equal are one; None is no answer. A sample that was cut off has none.
              stop_early: give up samples that cannot change the result.
        """
        asked = self._ask(question, effort, budget_tokens, _spread(n, sampling))
        vote, started_s = Vote(n), perf_counter()

        def ended(index: int, one: Completion) -> Iterable[int]:
            vote.add(index, normalise(one.text) if one.finish_reason == "stop" else None)
            return _unwanted(vote, index, stop_early)

        done = self._sample(asked, n, ended)
        assert vote.winner is not None, "n samples have ended"
        return self._outcome(vote.winner, done, started_s, vote.counts)

    def best_of(
        self, question: Question, n: int = 5, *, check: Check | None = None, effort: str | None = None,
        budget_tokens: int | None = None, stop_early: bool = True, **sampling: Any,
    ) -> Outcome:  # fmt: skip
        """The best of n samples; of equals, the first.

        Args: check: the score of an answer, such as `lambda text: task.check(problem, text)`; a score of 1 is the best
              there is, and ends the search. None: the mean log-probability of a sample's tokens.
        """
        more = {} if check is not None else {"logprobs": 0}
        asked = self._ask(question, effort, budget_tokens, _spread(n, sampling) | more)
        best, started_s = Best(n, 1.0 if check is not None else float("inf")), perf_counter()

        def ended(index: int, one: Completion) -> Iterable[int]:
            score = float(check(one.text)) if check is not None else self._likelihood(one)
            best.add(index, score if one.finish_reason == "stop" else None)
            return _unwanted(best, index, stop_early)

        done = self._sample(asked, n, ended)
        assert best.winner is not None, "n samples have ended"
        return self._outcome(best.winner, done, started_s)

    def revise(
        self, question: Question, n: int = 3, *, effort: str | None = None, budget_tokens: int | None = None,
        normalise: Normalise = normalised, request: str = REVISE, **sampling: Any,
    ) -> Outcome:  # fmt: skip
        """An answer that is given back with the request to check it, until one repeats the last; n answers at most.

        A later answer that is empty, or cut off, does not count: the one before it stands.
        """
        _check_n(n)
        asked = self._ask(question, effort, budget_tokens, {"temperature": 0.0} | sampling)
        started_s, winner = perf_counter(), 0
        done = self._sample(asked, 1)
        while len(done) < n and _usable(done[winner].completion):
            last = done[winner].completion
            told = [*asked.messages, {"role": "assistant", "content": last.text}, {"role": "user", "content": request}]
            asked = self._prepare(told, asked.steering, sampling={"temperature": 0.0} | sampling)
            done += self._sample(asked, 1)
            again = done[-1].completion
            if not _usable(again):
                break
            winner = len(done) - 1
            if normalise(again.text) == normalise(last.text):
                break
        return self._outcome(winner, done, started_s)

    def _ask(
        self, question: Question, effort: str | None, budget_tokens: int | None, sampling: Mapping[str, Any]
    ) -> _Asked:
        messages = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
        steering = steer(self.llm.tokenizer, self.llm.engine.context_tokens, effort, budget_tokens)
        return self._prepare(messages, steering, sampling)

    def _prepare(
        self, messages: Sequence[Mapping[str, Any]], steering: Steering, sampling: Mapping[str, Any]
    ) -> _Asked:
        unknown = set(sampling) - set(SamplingParams.__struct_fields__) | {"thinking"} & set(sampling)
        if unknown:
            raise InputError(
                f"{sorted(unknown)[0]!r} is no sampling parameter here; thought is set by effort and budget_tokens."
            )
        tokenizer, context = self.llm.tokenizer, self.llm.engine.context_tokens
        told = with_control(messages, steering.line)
        prompt = encode_chat(tokenizer, told, thinking=steering.thinking)
        room = context - len(prompt)
        if room < 1:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens; the context holds {context}. Shorten it.",
                param="messages",
                code="context_length_exceeded",
            )
        most, answer = sampling.get("max_tokens"), self.answer_tokens
        total, limit = share(steering, tokenizer, prompt, room, most=most, answer_tokens=answer)
        if most is None and limit is not None:
            total = min(total, limit.budget_tokens + 1 + answer)
        params = SamplingParams(**{**sampling, "max_tokens": total, "thinking": limit})
        return _Asked(messages, steering, prompt, params)

    def _sample(
        self, asked: _Asked, n: int, ended: Callable[[int, Completion], Iterable[int]] | None = None
    ) -> list[_Sample]:
        seeds = [sibling_seed(asked.params.seed, index) for index in range(n)]
        each = [msgspec.structs.replace(asked.params, seed=seed) for seed in seeds]
        prompt = tuple(asked.prompt)
        return [_Sample(prompt, one) for one in self.llm.generate([asked.prompt] * n, each, ended)]

    def _likelihood(self, one: Completion) -> float | None:
        return mean_logprob(one.logprobs, self.llm.tokenizer.special.values())

    def _outcome(
        self, winner: int, done: Sequence[_Sample], started_s: float, votes: Mapping[str, int] | None = None
    ) -> Outcome:
        config, seconds = self.llm.engine.model.config, perf_counter() - started_s
        account = Account.of(config, [one.work for one in done], seconds, self.prices, self._token_bytes)
        best = done[winner].completion
        return Outcome(best.text, best.reasoning, winner, tuple(one.completion for one in done), account, votes or {})

    @functools.cached_property
    def _token_bytes(self) -> int:
        engine = self.llm.engine
        return cache_bytes_per_token(engine.model.config, engine.model.compute_dtype.itemsize, mtp=engine.mtp)


def _spread(n: int, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling parameters with which n samples differ. Raises: InputError: they would all be the same."""
    _check_n(n)
    if n > 1 and sampling.get("temperature") == 0:
        raise InputError("temperature is 0: all samples would be the same; give one above 0, or n = 1.")
    return {"temperature": TEMPERATURE, **sampling}


def _check_n(n: int) -> None:
    if n < 1:
        raise InputError(f"n is {n} samples; it must be at least 1.")


def _unwanted(election: Vote | Best, over: int, stop_early: bool) -> Iterable[int]:
    wanted = election.wanted
    return [i for i in range(election.n) if i != over and i not in wanted] if stop_early and election.decided else ()


def _usable(one: Completion) -> bool:
    return one.finish_reason == "stop" and bool(one.text.strip())
