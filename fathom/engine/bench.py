"""How fast an engine is: the real one, scheduler, sampler and all, on prompts of random tokens.

A model that is left to itself soon repeats itself, and then asks for the same experts over and over, which the caches
hold. So every step is computed and sampled in full, and then the engine is told that random tokens were chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from random import Random
from statistics import median
from time import perf_counter
from typing import Any, cast

from msgspec.structs import replace

from fathom.batching.plan import Plan, Sampled
from fathom.batching.request import Request, SamplingParams
from fathom.engine.engine import Engine, EngineConfig
from fathom.engine.runner import Runner
from fathom.errors import ConfigError, EngineError
from fathom.model import Model

WARM_UP_TOKENS = 4
PAGE_TOKENS = EngineConfig.page_tokens


@dataclass(frozen=True)
class Spread:
    """Median, range and all of some samples."""

    median: float
    min: float
    max: float
    samples: tuple[float, ...]

    @staticmethod
    def of(samples: Sequence[float]) -> Spread:
        return Spread(median(samples), min(samples), max(samples), tuple(samples))


@dataclass(frozen=True)
class Speed:
    """What was measured. A sample is a repeat; `ms_in_model` is the part of a step spent in the model itself."""

    sequences: int
    context: int
    tokens: int
    tokens_per_s: Spread
    ms_per_step: Spread
    ms_in_model: Spread


class Dictated(Runner):
    """A runner that computes and samples as any, then answers with tokens of its own, drawn evenly.

    `model_s` adds up the time spent in the model.
    """

    def dictate(self, seed: int) -> Dictated:
        """Begin: random tokens by `seed`, no time spent."""
        self._random = Random(seed)
        self._watched = Watched(self.model)
        self.model = cast(Model, self._watched)
        return self

    @property
    def model_s(self) -> float:
        return self._watched.seconds

    def execute(self, plan: Plan, forwards: tuple[int, int] = (0, 0)) -> list[Sampled]:
        vocabulary, sampled = self._watched.config.vocab_size, super().execute(plan, forwards)
        return [replace(answer, token_ids=(self._random.randrange(vocabulary),)) for answer in sampled]


class Watched:
    """A model that adds up the seconds it takes."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *args: Any) -> Any:
        return self._timed(self._model, *args)

    def answer(self, *args: Any) -> Any:
        return self._timed(self._model.answer, *args)

    def _timed(self, what: Any, *args: Any) -> Any:
        started = perf_counter()
        try:
            return what(*args)
        finally:
            self.seconds += perf_counter() - started


@dataclass
class Bench:
    """One engine to measure, with room for `sequences` of `context` and `tokens` more; nothing is drafted."""

    model: Model
    sequences: int = 1
    context: int = 0
    tokens: int = 128
    seed: int = 0
    _rounds: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        for name, least in (("sequences", 1), ("context", 0), ("tokens", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        longest = self.model.config.max_position_embeddings
        needed = max(1, self.context) + max(self.tokens, WARM_UP_TOKENS) + 1
        if needed > longest:
            raise ConfigError(
                f"context and tokens need {needed} positions; the model has {longest}. Lower one of them."
            )
        config = EngineConfig(
            max_batch_tokens=max(EngineConfig.max_batch_tokens, self.sequences * PAGE_TOKENS),
            max_sequences=self.sequences,
            num_pages=(self.sequences + 1) * (-(-needed // PAGE_TOKENS) + 2),  # none waits for another's
            spec="off",
        )
        self.engine = Engine(self.model, config=config)
        self.runner = Dictated(self.model, self.engine.cache).dictate(self.seed)
        self.engine.runner = self.runner

    def decode(self, repeats: int) -> Speed:
        """All sequences generate `tokens` tokens each, with `context` tokens before them."""
        self._decode(WARM_UP_TOKENS)
        return self._speed([self._decode(self.tokens) for _ in range(repeats)], self.sequences * self.tokens)

    def prefill(self, repeats: int) -> Speed:
        """One prompt of `context` tokens is read, up to its first generated token."""
        self._prefill()
        return self._speed([self._prefill() for _ in range(repeats)], max(1, self.context))

    def _decode(self, tokens: int) -> list[tuple[float, float]]:
        """(time, of it in the model) of each step [s]."""
        params = SamplingParams(max_tokens=tokens + 1, temperature=0.0, ignore_eos=True)
        requests = [self._request(params) for _ in range(self.sequences)]
        for request in requests:  # one after another: then all find their prompts in the cache, and begin together
            self._run(Request(f"{request.id} before", request.prompt_token_ids, SamplingParams(max_tokens=1)))
        for request in requests:
            self.engine.add(request)
        self._step(self.sequences)
        steps = [self._step(self.sequences) for _ in range(tokens)]
        if self.engine.has_work:
            raise EngineError(f"{tokens} steps of {self.sequences} sequences left some unfinished; report this.")
        return steps

    def _prefill(self) -> list[tuple[float, float]]:
        request = self._request(SamplingParams(max_tokens=1, temperature=0.0))
        spent, started = self.runner.model_s, perf_counter()
        self._run(request)
        return [(perf_counter() - started, self.runner.model_s - spent)]

    def _request(self, params: SamplingParams) -> Request:
        """A new random prompt: none finds another's pages."""
        self._rounds += 1
        random = Random(f"{self.seed}/{self._rounds}")
        vocabulary = self.model.config.vocab_size
        prompt = tuple(random.randrange(vocabulary) for _ in range(max(1, self.context)))
        return Request(str(self._rounds), prompt, params)

    def _run(self, request: Request) -> None:
        self.engine.add(request)
        while self.engine.has_work:
            self.engine.step()

    def _step(self, expected: int) -> tuple[float, float]:
        spent, started = self.runner.model_s, perf_counter()
        outputs = self.engine.step()
        taken = perf_counter() - started
        if sum(len(output.token_ids) for output in outputs) != expected:
            raise EngineError(f"a measured step gave tokens to fewer than its {expected} sequences; report this.")
        return taken, self.runner.model_s - spent

    def _speed(self, rounds: Sequence[Sequence[tuple[float, float]]], tokens: int) -> Speed:
        """Spreads over rounds, each of which brought so many tokens."""
        return Speed(
            self.sequences,
            self.context,
            self.tokens,
            Spread.of([tokens / sum(taken for taken, _ in steps) for steps in rounds]),
            Spread.of([1e3 * sum(taken for taken, _ in steps) / len(steps) for steps in rounds]),
            Spread.of([1e3 * sum(model for _, model in steps) / len(steps) for steps in rounds]),
        )


# ---- drafting, on texts that mean something ------------------------------------------------------------------------


@dataclass(frozen=True)
class Drafted:
    """Prompts of one family with and without drafting. acceptance: drafts that came true, at each depth."""

    tokens: int
    identical: bool
    plain: Spread
    drafted: Spread
    ratio: float
    acceptance: tuple[float, ...]


def compare_drafting(
    plain: Engine, drafted: Engine, prompts: Mapping[str, Sequence[Sequence[int]]], *, max_tokens: int, repeats: int,
    together: int = 1,
) -> Iterator[tuple[str, Drafted]]:  # fmt: skip
    """Each family's prompts, some together, greedy, by both engines in turns; tokens/s once all have their first."""
    for family, asked in prompts.items():
        sides = [("plain", plain), ("drafted", drafted)]
        for _, engine in sides:
            _ask(engine, asked, WARM_UP_TOKENS, f"{family} warm-up", together)
        before = _drafts(drafted)
        rates: dict[str, list[float]] = {"plain": [], "drafted": []}
        texts: dict[str, list[list[int]]] = {"plain": [], "drafted": []}
        for repeat in range(repeats):
            for name, engine in sides if repeat % 2 == 0 else reversed(sides):
                texts[name], rate = _ask(engine, asked, max_tokens, f"{family} {repeat}", together)
                rates[name].append(rate)
        one, other = Spread.of(rates["plain"]), Spread.of(rates["drafted"])
        depths = zip_longest(_drafts(drafted), before, fillvalue=(0, 0))
        counts = [(made - made_before, true - true_before) for (made, true), (made_before, true_before) in depths]
        yield (
            family,
            Drafted(
                tokens=sum(map(len, texts["plain"])),
                identical=texts["plain"] == texts["drafted"],
                plain=one,
                drafted=other,
                ratio=other.median / one.median,
                acceptance=tuple(true / made for made, true in counts if made),
            ),
        )


def _ask(
    engine: Engine, prompts: Sequence[Sequence[int]], most: int, name: str, together: int
) -> tuple[list[list[int]], float]:
    """(the reply to each prompt, tokens per second once all that were asked together have their first)."""
    replies: list[list[int]] = []
    later, seconds = 0, 0.0
    for first in range(0, len(prompts), together):
        group: dict[str, list[int]] = {}
        for number, prompt in enumerate(prompts[first : first + together], first):
            group[f"{name} {number}"] = []
            engine.add(Request(f"{name} {number}", tuple(prompt), SamplingParams(max_tokens=most, temperature=0.0)))
        while engine.has_work:
            counted, started = all(group.values()), perf_counter()
            outputs = engine.step()
            if counted:
                seconds += perf_counter() - started
                later += sum([len(output.token_ids) for output in outputs])
            for output in outputs:
                group[output.request_id] += output.token_ids
        replies += group.values()
    return replies, later / seconds if seconds else 0.0


def _drafts(engine: Engine) -> list[tuple[int, int]]:
    """(drafts made, drafts that came true) at each depth, since the engine began."""
    stats = engine.stats()
    return list(zip(stats.drafted_by_depth, stats.accepted_by_depth, strict=True))
