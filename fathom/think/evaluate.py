"""Accuracy on problems with a checker, with an interval, and its cost in tokens: by family, level, language, mode."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import msgspec

from fathom import tasks
from fathom.batching import SamplingParams
from fathom.batching.request import sibling_seed
from fathom.engine import Engine
from fathom.engine.llm import Completion
from fathom.errors import InputError
from fathom.tasks import Problem
from fathom.think.intervals import wilson
from fathom.think.modes import ANSWER_TOKENS, OWN_STYLE, Mode
from fathom.think.passk import majority_at, pass_at
from fathom.think.votes import normalised
from fathom.tokenizer import Tokenizer

AT_ONCE = 256  # answers asked of the engine in one go; it runs as many together as it has room for


class Generates(Protocol):
    """What is evaluated: an LLM, or whatever answers in its place."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def engine(self) -> Engine: ...

    def generate(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams], /) -> list[Completion]: ...


@dataclass(frozen=True)
class EvalConfig:
    """What is asked, and how. Empty families and levels mean all there are.

    n: problems of each family, level and language. samples: answers to each problem, drawn at `temperature`.
    max_tokens: longest answer, thinking included.
    """

    families: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()
    languages: tuple[str, ...] = ("en",)
    modes: tuple[Mode, ...] = (OWN_STYLE,)
    n: int = 100
    seed: int = 0
    split: str = "test"
    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 640

    def __post_init__(self) -> None:
        for name in ("n", "samples", "max_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.samples > 1 and not self.temperature > 0:
            raise InputError(f"samples is {self.samples} at temperature 0, which are all alike; use temperature 1.")
        for family in self.families:
            tasks.named(family)
        for language in self.languages:
            tasks.require_language(language)
        for mode in self.modes:
            if mode.limit is not None and mode.limit + ANSWER_TOKENS >= self.max_tokens:
                raise InputError(
                    f"max_tokens is {self.max_tokens}, of which {mode.label} may think {mode.limit}; the answer needs "
                    f"{ANSWER_TOKENS} more. Use max_tokens {mode.limit + ANSWER_TOKENS + 1} or above."
                )
        if not self.cells():
            raise InputError(f"levels {', '.join(map(str, self.levels))}: no chosen family has one of them.")

    def cells(self) -> list[tuple[str, int, str, Mode]]:
        """Family, level, language and mode of each table row to come."""
        return [
            (family, level, language, mode)
            for mode in self.modes
            for family in self.families or tasks.FAMILIES
            for level in tasks.named(family).levels
            if level in (self.levels or (level,))
            for language in self.languages
        ]


@dataclass(frozen=True)
class Score:
    """How a model did on n problems of one family, level and language in one mode.

    Fields: effort: the mode's label. low, high: 95 % Wilson interval of the accuracy, over problems.
            correct: answers, of n * samples. tokens_mean: generated per answer; thinking_mean, answer_mean: its parts
            before and after the end of thinking. cut_off: answers that ran into max_tokens. distinct: different
            problems among the n; a small level repeats itself. problems: hash of which they are, in their order.
            asked: tokens of thought asked for. pass_at, majority_at: by number of samples, see passk.py.
            right: of each problem's samples. used: tokens of thought of each problem, mean over its samples.
    """

    family: str
    level: int
    effort: str
    n: int
    correct: int
    accuracy: float
    low: float
    high: float
    tokens_mean: float
    cut_off: int
    distinct: int
    language: str = "en"
    samples: int = 1
    thinking_mean: float = 0.0
    answer_mean: float = 0.0
    problems: str = ""
    asked: int | None = None
    pass_at: dict[int, float] = field(default_factory=dict)
    majority_at: dict[int, float] = field(default_factory=dict)
    right: tuple[int, ...] = ()
    used: tuple[float, ...] = ()


Record = dict[str, Any]


def run(
    llm: Generates, config: EvalConfig, report: Callable[[Score], None] = lambda score: None,
    record: Callable[[Record], None] | None = None,
) -> list[Score]:  # fmt: skip
    """Evaluate every cell of the config. `report` gets each score when it is there, `record` each answer.

    Every mode is asked the same problems in the same words; equal configs ask equal problems of any model.
    """
    scores = []
    for family, level, language, mode in config.cells():
        scores.append(score := evaluate(llm, family, level, mode, config, language, record))
        report(score)
    return scores


def draw(config: EvalConfig, family: str, level: int, language: str = "en") -> list[Problem]:
    """The problems of one cell, a function of seed, family, level and split alone; the language only words them."""
    rng = Random(f"{config.seed}/{family}/{level}")
    return [tasks.draw(family, level, config.split, rng, language) for _ in range(config.n)]


def evaluate(
    llm: Generates, family: str, level: int, mode: Mode = OWN_STYLE, config: EvalConfig | None = None,
    language: str = "en", record: Callable[[Record], None] | None = None,
) -> Score:  # fmt: skip
    """One cell: every problem asked config.samples times."""
    config = config or EvalConfig()
    problems, samples = draw(config, family, level, language), config.samples
    prompts: list[list[int]] = []
    params: list[SamplingParams] = []
    for problem in problems:
        prompt, thinking = mode.ask(llm.tokenizer, llm.engine.context_tokens, problem, config.max_tokens)
        seeds = [sibling_seed(_seed(config.seed, problem), sample) for sample in range(samples)]
        one = SamplingParams(max_tokens=config.max_tokens, temperature=config.temperature, thinking=thinking)
        prompts += [prompt] * samples
        params += [msgspec.structs.replace(one, seed=seed) for seed in seeds]
    answers: list[Completion] = []
    for begin in range(0, len(prompts), AT_ONCE):
        answers += llm.generate(prompts[begin : begin + AT_ONCE], params[begin : begin + AT_ONCE])
    check = tasks.named(family).check
    marks = [check(problems[i // samples], answer.text) for i, answer in enumerate(answers)]
    if record is not None:
        for i, (answer, mark) in enumerate(zip(answers, marks, strict=True)):
            record(_record(problems[i // samples], mode, i % samples, answer, mark))
    return _score(mode, problems, answers, marks)


def problem_hash(problems: Iterable[Problem]) -> str:
    """Names a list of problems: equal for the same ones in the same order, whatever their wording."""
    return hashlib.sha256("\n".join(problem.key for problem in problems).encode()).hexdigest()[:16]


def ballot(answer: Completion) -> str | None:
    """What an answer votes for, as in the votes that are served; None abstains: empty, or cut off."""
    return normalised(answer.text) if answer.finish_reason == "stop" else None


def _score(mode: Mode, problems: list[Problem], answers: list[Completion], marks: list[bool]) -> Score:
    n, samples, one = len(problems), len(answers) // len(problems), problems[0]
    right = [sum(marks[i * samples : (i + 1) * samples]) for i in range(n)]
    thought = [answer.usage.reasoning_tokens for answer in answers]
    total, accuracy = sum(len(answer.token_ids) for answer in answers), sum(right) / len(answers)
    low, high = wilson(sum(right) / samples, n)
    passes, majorities = _by_samples(answers, marks, samples)
    return Score(
        family=one.family, level=one.level, effort=mode.label, n=n, correct=sum(right), accuracy=accuracy,
        low=low, high=high, tokens_mean=total / len(answers),
        cut_off=sum(answer.finish_reason == "length" for answer in answers),
        distinct=len({problem.key for problem in problems}), language=one.language, samples=samples,
        thinking_mean=sum(thought) / len(answers), answer_mean=(total - sum(thought)) / len(answers),
        problems=problem_hash(problems), asked=mode.asked, pass_at=passes, majority_at=majorities, right=tuple(right),
        used=tuple(sum(thought[i * samples : (i + 1) * samples]) / samples for i in range(n)),
    )  # fmt: skip


def _by_samples(
    answers: list[Completion], marks: list[bool], samples: int
) -> tuple[dict[int, float], dict[int, float]]:
    """Mean pass@k and majority@k over problems, for k of 1, 2, 4 ... and all samples; nothing for single answers."""
    if samples == 1:
        return {}, {}
    ks = [*(2**i for i in range(samples.bit_length()) if 2**i < samples), samples]
    passes: list[list[float]] = []
    majorities: list[list[float]] = []
    for part in _parts(list(zip(answers, marks, strict=True)), samples):
        passes.append([pass_at(samples, sum(mark for _, mark in part), k) for k in ks])
        votes = Counter(ballot(answer) for answer, _ in part)
        abstained = votes.pop(None, 0)
        good = {ballot(answer) for answer, mark in part if mark}
        sides = [[count for text, count in votes.items() if (text in good) is side] for side in (True, False)]
        majorities.append(majority_at(sides[0], sides[1], abstained, ks))
    means = [[math.fsum(column) / len(rows) for column in zip(*rows, strict=True)] for rows in (passes, majorities)]
    return dict(zip(ks, means[0], strict=True)), dict(zip(ks, means[1], strict=True))


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def _record(problem: Problem, mode: Mode, sample: int, answer: Completion, mark: bool) -> Record:
    thought = answer.usage.reasoning_tokens
    return {
        "family": problem.family, "level": problem.level, "language": problem.language,
        "effort": mode.label, "key": problem.key, "sample": sample,
        "correct": mark, "thinking_tokens": thought, "answer_tokens": len(answer.token_ids) - thought,
        "finish_reason": answer.finish_reason, "text": answer.text,
    }  # fmt: skip


def _seed(seed: int, problem: Problem) -> int:
    """Of a problem's first sample: each problem has noise of its own."""
    digest = hashlib.sha256(f"{seed}/{problem.key}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)
