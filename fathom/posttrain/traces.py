"""Cold start: samples for SFT made of the solvers' own reasoning, in the kinds that the later stages build on.

    direct      the reply at once
    concise     the trace, then the reply: the house style, which nothing asks for
    reflective  asked to check ("Check your work."): the trace, a test of its answer, sometimes a slip found and mended
    budget      told a number of tokens ("budget 96"): a thought of at most so many, and of nearly so many
    small talk  greetings and questions about the model

The first and the third are the two kinds of DeepSeek-V3's expert stage: <problem, original response> and <system
prompt, problem, R1 response> (arXiv:2412.19437, section 5.1). All problems are of the train split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from fathom import tasks
from fathom.config.effort import REFLECT, control, with_control
from fathom.errors import ConfigError, InputError
from fathom.tasks import smalltalk, thoughts
from fathom.tasks.mixture import Mixture
from fathom.tasks.task import Problem
from fathom.tokenizer import Tokenizer
from fathom.train.samples import Sample

KINDS = ("direct", "concise", "reflective", "budget")
SMALL_TALK = "small talk"
BUDGETS = (32, 48, 64, 96, 128, 192, 256)  # tokens of thought

# Nearly every problem is shorter than a sensible row; as many misses in a row mean that none is.
MAX_DRAWS = 1_000


@dataclass(frozen=True)
class TraceConfig:
    """What is made, and how much of each. shares: kind -> share of the samples; what is left to 1 is small talk.

    budgets: tokens of thought that are asked for. longest: tokens of a prompt and its answer, at most; a longer sample
    is drawn anew.
    """

    samples: int = 4000
    seed: int = 0
    shares: dict[str, float] = field(
        default_factory=lambda: {"direct": 0.12, "concise": 0.36, "reflective": 0.20, "budget": 0.28}
    )
    problems: Mixture = field(default_factory=Mixture)
    budgets: tuple[int, ...] = BUDGETS
    slip_share: float = thoughts.SLIP_SHARE  # of the reflective samples
    longest: int = 512

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples is {self.samples}; it must be at least 1.")
        for kind in self.shares:
            if kind not in KINDS:
                raise ConfigError(f"shares names {kind!r}; the kinds are {', '.join(KINDS)}.")
        total = sum(self.shares.values())
        if total > 1 + 1e-9 or any(share < 0 for share in self.shares.values()):
            raise ConfigError(f"shares are {self.shares}; none may be below 0, and the sum ({total:g}) not above 1.")
        if not self.budgets or min(self.budgets) < 1:
            raise ConfigError(f"budgets are {self.budgets}; give at least one, each of 1 token or more.")
        if not 0 <= self.slip_share <= 1:
            raise ConfigError(f"slip_share is {self.slip_share:g}; it must be between 0 and 1.")


def build(
    config: TraceConfig, tokenizer: Tokenizer, report: Callable[[int, int], None] = lambda done, total: None
) -> list[Sample]:
    """The samples, kinds mixed; a pure function of the configuration and the tokenizer.

    Args: report: called with (samples made, samples in all), now and then.
    """
    kinds = _kinds(config)
    Random(f"{config.seed}/traces").shuffle(kinds)
    samples = []
    for number, kind in enumerate(kinds):
        samples.append(_fitting(config, kind, tokenizer, Random(f"{config.seed}/traces/{number}")))
        if number % 100 == 99 or number + 1 == len(kinds):
            report(number + 1, len(kinds))
    return samples


def sample(kind: str, problem: Problem, config: TraceConfig, tokenizer: Tokenizer, rng: Random) -> Sample:
    """A problem worked out in one of the KINDS; one that comes without a trace is answered directly."""
    kind = kind if problem.trace else "direct"
    task, line, thought = tasks.named(problem.family), None, None
    if kind == "concise":
        thought = thoughts.concise(problem)
    elif kind == "reflective":
        line, thought = REFLECT, thoughts.reflective(task, problem, rng, config.slip_share)
    elif kind == "budget":
        budget = rng.choice(config.budgets)
        line = control(None, budget)
        thought = thoughts.budgeted(task, problem, budget, lambda text: len(tokenizer.encode(text)))
    return Sample(
        messages=asked(problem, line), thought=thought, reply=problem.reply, kind=kind, family=problem.family,
        level=problem.level, key=problem.key,
    )  # fmt: skip


def asked(problem: Problem, line: str | None = None) -> tuple[dict[str, str], ...]:
    """The conversation that asks for a problem, under a line of the system message."""
    return tuple(dict(message) for message in with_control([{"role": "user", "content": problem.prompt}], line))


def texts(problems: Mixture, count: int, seed: int = 0) -> Iterator[str]:
    """What a vocabulary for such samples is learned from: `count` problems with all that is said of them."""
    rng = Random(f"{seed}/texts")
    for number in range(count):
        problem = problems.draw("train", rng)
        task = tasks.named(problem.family)
        yield from (problem.prompt, thoughts.reflective(task, problem, rng), problem.reply)
        yield REFLECT if number % 2 else f"{control(None, rng.choice(BUDGETS))}"
        yield from smalltalk.sample(rng, problem.language)


def tokens_of(one: Sample, tokenizer: Tokenizer) -> int:
    """Tokens of a sample's prompt and answer."""
    return sum(map(len, one.encode(tokenizer)))


def _kinds(config: TraceConfig) -> list[str]:
    """One kind per sample, in exactly the shares asked for, but for rounding."""
    left, kinds = config.samples, []
    for kind, share in config.shares.items():
        count = min(left, round(share * config.samples))
        kinds += [kind] * count
        left -= count
    whole = sum(config.shares.values()) > 1 - 1e-9  # what rounding left over is no small talk then
    return kinds + [max(config.shares, key=config.shares.__getitem__) if whole else SMALL_TALK] * left


def _fitting(config: TraceConfig, kind: str, tokenizer: Tokenizer, rng: Random) -> Sample:
    """A sample of at most `longest` tokens."""
    for _ in range(MAX_DRAWS):
        if kind == SMALL_TALK:
            made = _small_talk(config, rng)
        else:
            made = sample(kind, config.problems.draw("train", rng), config, tokenizer, rng)
        if tokens_of(made, tokenizer) <= config.longest:
            return made
    raise InputError(f"{kind}: no sample of at most {config.longest} tokens in {MAX_DRAWS} draws; raise `longest`.")


def _small_talk(config: TraceConfig, rng: Random) -> Sample:
    """Half of it thinks first: who talks to a model that thinks also says hello to it."""
    prompt, thought, reply = smalltalk.sample(rng, "zh" if rng.random() < config.problems.chinese else "en")
    return Sample(
        ({"role": "user", "content": prompt},), thought if rng.random() < 0.5 else None, reply, kind=SMALL_TALK
    )


def shares_of(samples: Sequence[Sample]) -> dict[str, float]:
    """Share of each kind."""
    kinds = [one.kind for one in samples]
    return {kind: kinds.count(kind) / len(kinds) for kind in dict.fromkeys(kinds)}
