"""Answers to practise on, sampled by our own engine with the trainer's weights, in this process.

Which tokens come is a function of the weights and of the seeds alone: neither the batch, nor what is cached, nor how
many tokens are guessed ahead changes one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fathom.batching import Request, SamplingParams, sibling_seed
from fathom.batching.request import FinishReason
from fathom.engine import Engine, EngineConfig
from fathom.errors import ConfigError
from fathom.posttrain.prompts import Prompt
from fathom.posttrain.rewards import Answer
from fathom.posttrain.scoring import Twin
from fathom.tokenizer import Tokenizer

PROMPT_TOKENS = 256  # pages are kept for prompts of so many


@dataclass(frozen=True)
class RolloutConfig:
    """How answers are sampled.

    Fields: groups: prompts of a step. samples: answers to each (GRPO's G). max_tokens: of an answer, thought included.
            temperature: of sampling, and of the probabilities that are trained. at_once: sequences decoded together.
            spec: tokens guessed ahead with MTP: 1 to 4, off, or auto. resample: rounds in which groups whose rewards
            are all equal give way to new ones (DAPO's dynamic sampling); 0: never.
    """

    groups: int = 16
    samples: int = 8
    max_tokens: int = 384
    temperature: float = 1.0
    at_once: int = 64
    spec: str | int = "auto"
    resample: int = 0

    def __post_init__(self) -> None:
        for name, least in {"groups": 1, "samples": 2, "max_tokens": 1, "at_once": 1, "resample": 0}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.temperature <= 0:
            raise ConfigError(f"temperature is {self.temperature:g}; it must be above 0, as every answer is sampled.")


@dataclass(frozen=True)
class Trial:
    """One sampled answer. logprobs: the engine's, of each token, at temperature 1."""

    prompt: Prompt
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.prompt.token_ids


@dataclass
class _Coming:
    """A Trial that is being sampled."""

    prompt: Prompt
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Actor:
    """The engine and the weights it answers with."""

    def __init__(self, twin: Twin, config: RolloutConfig, eos_token_ids: Sequence[int]) -> None:
        self.twin, self.config = twin, config
        self.eos_token_ids = tuple(eos_token_ids)
        self.version = 0  # of the weights
        longest = min(PROMPT_TOKENS + config.max_tokens, twin.config.max_position_embeddings)
        pages = 1 + -(-longest // EngineConfig.page_tokens)
        limits = EngineConfig(
            max_sequences=config.at_once,
            max_batch_tokens=max(EngineConfig.max_batch_tokens, 4 * config.at_once),
            num_pages=pages * config.at_once,
            max_stretch=1e3,  # nobody reads along: a step may take as long as it takes
            spec=config.spec,
            numerics="exact" if twin.exact else "fast",
        )
        self.engine = Engine(twin.model, config=limits, eos_token_ids=eos_token_ids)

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Answer with these weights from now on. What the old ones have cached is not found again, and gives way."""
        self.twin.take(tensors)
        self.version += 1

    def generate(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], stop: Callable[[], bool] = lambda: False
    ) -> list[list[Trial]] | None:
        """`config.samples` answers to each prompt; None if `stop` said so meanwhile.

        Args:   seeds: one for each prompt.
        Raises: RequestError: a prompt leaves no room for max_tokens in the model's context.
        """
        config, coming = self.config, dict[str, _Coming]()
        try:
            for place, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
                for index in range(config.samples):
                    params = SamplingParams(
                        max_tokens=config.max_tokens, temperature=config.temperature, logprobs=0,
                        seed=sibling_seed(seed, index),
                    )  # fmt: skip
                    name = f"{place}/{index}"
                    self.engine.add(
                        Request(name, prompt.token_ids, params, cache_salt=str(self.version), streamed=False)
                    )
                    coming[name] = _Coming(prompt)
            while any(each.finish_reason is None for each in coming.values()):
                if stop():
                    return None
                for output in self.engine.step():
                    one = coming[output.request_id]
                    one.token_ids += output.token_ids
                    one.logprobs += [each.logprob for each in output.logprobs]
                    one.finish_reason = output.finish_reason
        finally:
            for name in coming:
                self.engine.abort(name)
        trials = [
            Trial(one.prompt, tuple(one.token_ids), tuple(one.logprobs), one.finish_reason or "abort")
            for one in coming.values()
        ]
        return [trials[i : i + config.samples] for i in range(0, len(trials), config.samples)]

    def guesses(self) -> tuple[int, int]:
        """(tokens guessed with MTP so far, those that were right), of the first guess of each step."""
        stats = self.engine.stats()
        return sum(stats.drafted_by_depth[:1]), sum(stats.accepted_by_depth[:1])


def seed_of(name: str) -> int:
    """A seed of 63 bits for what has this name, such as "seed/step/round/place"."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 1


def read_answer(trial: Trial, tokenizer: Tokenizer, eos_token_ids: Sequence[int]) -> Answer:
    """A trial as rewards see it: the thought is what comes before the first end of it, the reply all that follows."""
    ids, prompt, end = list(trial.token_ids), trial.prompt, tokenizer.end_think_id
    if ids and trial.finish_reason == "stop" and ids[-1] in eos_token_ids:
        ids.pop()
    special = set(tokenizer.special.values())
    cut = ids.index(end) if prompt.thinking and end in ids else len(ids) if prompt.thinking else 0
    reply = ids[cut + 1 :] if prompt.thinking else ids
    return Answer(
        problem=prompt.problem,
        thought=tokenizer.decode(ids[:cut]),
        reply=tokenizer.decode(reply),
        finish_reason=trial.finish_reason,
        tokens=len(trial.token_ids),
        thought_tokens=cut,
        closed=sum(i == end for i in ids),
        controls=sum(i in special and i != end for i in ids),
        thinking=prompt.thinking,
        budget_tokens=prompt.budget_tokens,
    )
