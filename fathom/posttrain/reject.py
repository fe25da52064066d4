"""Rejection sampling: an expert replies often to each training problem; the right, short, consistent replies are kept.

DeepSeek-V3, section 5.1: the expert, sampled at a high temperature, joins the long thought it has when told to reflect
with its own style, and what is kept of it trains the standard model. So some replies of each group are asked with the
line that asks for reflection, the others without it; what is stored has no line: the student shall do it unasked.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from fathom import tasks
from fathom.batching import SamplingParams
from fathom.batching.request import sibling_seed
from fathom.config.effort import REFLECT
from fathom.engine import LLM, Completion, EngineConfig
from fathom.errors import ConfigError
from fathom.posttrain.early import Generates, early_ends
from fathom.posttrain.filters import DUPLICATE, FILTERS, SURPLUS, Candidate, Group, HeldOut, choose
from fathom.posttrain.traces import asked
from fathom.tasks.mixture import Mixture
from fathom.tasks.task import Problem
from fathom.tokenizer import Tokenizer, encode_chat
from fathom.train.ledger import Ledger
from fathom.train.samples import Sample, write_samples

KIND = "distilled"
MAX_DRAWS = 2_000  # in a row that bring no new problem: the mixture has no more


@dataclass(frozen=True)
class RejectConfig:
    """How much is sampled, and what is kept of it.

    count: of problems. samples: replies per problem. reflect_share: of them, asked with the line for reflection.
    length_ratio: a reply may be so many times as long as the shortest good one of its group. keep: replies kept of a
    problem, shortest first. early: shares of its lines after which a good thought is ended too (early.py), with
    early_tries replies each; whole: families left whole, since their answers can be guessed. held_out: problems of each
    family, level and other split whose wording may not occur. at_once: problems sampled together.
    """

    count: int = 400
    samples: int = 8
    problems: Mixture = field(default_factory=Mixture)
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 640
    reflect_share: float = 0.5
    length_ratio: float = 1.5
    keep: int = 1
    early: tuple[float, ...] = ()
    early_tries: int = 3
    whole: tuple[str, ...] = ()
    held_out: int = 50
    seed: int = 0
    at_once: int = 16

    def __post_init__(self) -> None:
        for name in ("count", "samples", "keep", "early_tries", "at_once", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.length_ratio < 1:
            raise ConfigError(f"length_ratio is {self.length_ratio:g}; it must be at least 1, the shortest itself.")
        if any(not 0 < share < 1 for share in self.early):
            raise ConfigError(f"early is {self.early}; each is a share of a thought's lines, above 0 and below 1.")
        if not 0 <= self.reflect_share <= 1:
            raise ConfigError(f"reflect_share is {self.reflect_share:g}; it must be between 0 and 1.")
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.held_out < 0:
            raise ConfigError(
                f"temperature is {self.temperature:g}, top_p {self.top_p:g} and held_out {self.held_out}; they must be"
                " at least 0, in (0, 1], and at least 0."
            )


@dataclass(frozen=True)
class Counts:
    """What became of the replies. dropped: by filter, in the order they are asked. tokens: of all replies, and of those
    that were kept."""

    problems: int = 0
    solved: int = 0  # problems of which a reply was kept
    sampled: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    kept_tokens: int = 0

    def with_group(self, verdicts: Sequence[tuple[Candidate, str | None]]) -> Counts:
        """These counts and those of one more group."""
        dropped, kept = Counter(name for _, name in verdicts if name), [one for one, name in verdicts if not name]
        return Counts(
            problems=self.problems + 1,
            solved=self.solved + bool(kept),
            sampled=self.sampled + len(verdicts),
            kept=self.kept + len(kept),
            dropped={name: self.dropped.get(name, 0) + dropped[name] for name in (*FILTERS, DUPLICATE, SURPLUS)},
            tokens=self.tokens + sum(one.tokens for one, _ in verdicts),
            kept_tokens=self.kept_tokens + sum(one.tokens for one in kept),
        )


Report = Callable[[Counts, int], None]


def reject(
    model_dir: Path | str, out: Path, config: RejectConfig, report: Report = lambda counts, problems: None, *,
    dropped: Path | None = None, engine: EngineConfig | None = None,
) -> Counts:  # fmt: skip
    """Samples from the model in `model_dir` and writes what is kept to `out`, lines of JSON (train/samples.py).

    `out` appears when all is done. An event "reject" goes to the ledger beside it.

    Args: report: called after each batch with the counts so far and the problems in all. dropped: a file for the
          other replies; their `kind` says which filter dropped them.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    counts, kept, others = collect(LLM(model_dir, engine), config, report)
    if dropped is not None:
        write_samples(dropped, others)
    unfinished = out.with_name(out.name + ".part")
    write_samples(unfinished, kept)
    os.replace(unfinished, out)
    ledger = Ledger(out.parent)
    facts = {"model": str(model_dir), "seconds": round(time.perf_counter() - begun, 3)}
    ledger.append("reject", **facts, config=asdict(config), counts=asdict(counts))
    ledger.close()
    return counts


def collect(
    llm: Generates, config: RejectConfig, report: Report = lambda counts, problems: None
) -> tuple[Counts, list[Sample], list[Sample]]:
    """Counts, what is kept, and what was dropped with the filter's name as its kind."""
    problems = draw_problems(config)
    held_out = HeldOut.of(held_out_problems(config))
    counts, kept, others = Counts(), list[Sample](), list[Sample]()
    for begin in range(0, len(problems), config.at_once):
        groups = sample_groups(llm, problems[begin : begin + config.at_once], config, begin)
        if config.early:
            params, seed = _params(config, 0), sibling_seed(config.seed, -1 - begin)
            groups = early_ends(llm, groups, config.early, config.early_tries, params, seed, config.whole)
        for candidates in groups:
            verdicts = choose(Group(candidates, config.length_ratio, held_out), config.keep)
            counts = counts.with_group(verdicts)
            kept += [_sample(one, KIND) for one, name in verdicts if name is None]
            others += [_sample(one, name, line=one.line) for one, name in verdicts if name is not None]
        report(counts, len(problems))
    return counts, kept, others


def draw_problems(config: RejectConfig) -> list[Problem]:
    """Different problems of the train split: no key twice, whatever the wording; fewer if the mixture has no more."""
    rng = Random(f"{config.seed}/reject")
    found: dict[str, Problem] = {}
    misses = 0
    while len(found) < config.count and misses < MAX_DRAWS:
        problem = config.problems.draw("train", rng)
        misses = misses + 1 if problem.key in found else 0
        found.setdefault(problem.key, problem)
    return list(found.values())


def held_out_problems(config: RejectConfig) -> Iterator[Problem]:
    """Problems of the validation and the test split, of the families, levels and languages of the mixture."""
    mixture = config.problems
    for family in mixture.families:
        for level in mixture.levels_of(family):
            for split in ("validation", "test"):
                rng = Random(f"{config.seed}/held out/{family}/{level}/{split}")
                for number in range(config.held_out):
                    yield tasks.draw(family, level, split, rng, mixture.languages[number % len(mixture.languages)])


def sample_groups(
    llm: Generates, problems: Sequence[Problem], config: RejectConfig, first: int = 0
) -> list[tuple[Candidate, ...]]:
    """`config.samples` replies to each problem, generated together. first: number of the first problem, for seeds."""
    reflecting = round(config.reflect_share * config.samples)
    lines = [REFLECT] * reflecting + [None] * (config.samples - reflecting)
    prompts, params, owners = [], [], []
    for number, problem in enumerate(problems, first):
        for index, line in enumerate(lines):
            prompts.append(encode_chat(llm.tokenizer, asked(problem, line), thinking=True))
            seed = sibling_seed(config.seed, number * config.samples + index)
            params.append(_params(config, seed))
            owners.append((problem, line))
    replies = llm.generate(prompts, params)
    made = [_candidate(*owner, reply, llm.tokenizer) for owner, reply in zip(owners, replies, strict=True)]
    return [tuple(made[i : i + config.samples]) for i in range(0, len(made), config.samples)]


def _params(config: RejectConfig, seed: int) -> SamplingParams:
    return SamplingParams(max_tokens=config.max_tokens, temperature=config.temperature, top_p=config.top_p, seed=seed)


def _candidate(problem: Problem, line: str | None, completion: Completion, tokenizer: Tokenizer) -> Candidate:
    ids = completion.token_ids
    closings = ids.count(tokenizer.end_think_id) if tokenizer.end_think_id is not None else 0
    ending = int(bool(ids) and ids[-1] == tokenizer.eos_id)
    controls = sum(i in tokenizer.special.values() for i in ids)
    return Candidate(
        problem=problem, thought=completion.reasoning, reply=completion.text, tokens=len(ids),
        finished=completion.finish_reason == "stop", closings=closings, markers=controls - closings - ending, line=line,
    )  # fmt: skip


def _sample(one: Candidate, kind: str, line: str | None = None) -> Sample:
    problem = one.problem
    return Sample(
        messages=asked(problem, line), thought=one.thought, reply=one.reply, kind=kind, family=problem.family,
        level=problem.level, key=problem.key,
    )  # fmt: skip
