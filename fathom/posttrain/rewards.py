"""What an answer is worth: named, pure functions that trust nothing the model wrote.

Every reward is of a whole group (the answers to one prompt), since Kimi's length reward compares them; most look at
each answer by itself. Training maximises the sum of `weights[name] * reward`, names and weights from the recipe.

    accuracy   1 if the reply, all of it, is right (Task.check); thoughts earn nothing
    format     1 if one thought was closed once, a reply follows, and neither spells control text
    language   share of the reply's letters that belong to the prompt's language (R1 v2, of words in the thought there)
    kimi       shorter than the others of its group: +0.5 to -0.5, above 0 only if right (Kimi k1.5, section 2.3.3)
    overlong   0, falling to -1 over the last tokens before the limit (DAPO, eq. 13)
    l1_exact   -alpha * |tokens asked for - tokens thought| (L1, eq. 1; accuracy is a reward of its own)
    l1_max     if right: alpha * (tokens asked for - tokens thought) + delta, within 0 and 1 (L1, eq. 2)

The last two look at prompts that name a budget, and are 0 for others. Lengths are tokens, never characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fathom import tasks
from fathom.batching.request import FinishReason
from fathom.config import nearest
from fathom.errors import ConfigError
from fathom.tasks import Problem

# Control tokens come as ids and are counted there; this is text that only looks like them.
CONTROL_TEXT = re.compile(r"</?\s*think\s*>|<\s*[|｜][^<>]{0,64}[|｜]\s*>", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """What a model made of a problem.

    Fields: thought: "" if the prompt asked for none. reply: what follows the first end of the thought, without the end
            of sequence; control tokens show as their text. closed: times the thought was ended. controls: other control
            tokens, the end of sequence apart. tokens: all that were generated; thought_tokens: those before the
            thought's end. thinking: whether the prompt opened a thought. budget_tokens: what the prompt asked for.
    """

    problem: Problem
    thought: str
    reply: str
    finish_reason: FinishReason
    tokens: int
    thought_tokens: int
    closed: int = 1
    controls: int = 0
    thinking: bool = True
    budget_tokens: int | None = None


Group = Sequence[Answer]


@dataclass(frozen=True)
class RewardConfig:
    """Weights by name, and the numbers that some rewards need.

    Fields: max_tokens: of a generation, thought and reply [tokens]; filled in from the rollout. overlong_tokens: over
            how many of them `overlong` falls. l1_alpha: reward per token [1/token]; L1 has 0.0003 for budgets to 4,000.
    """

    weights: dict[str, float] = field(default_factory=lambda: {"accuracy": 1.0, "format": 1.0})
    max_tokens: int = 384
    overlong_tokens: int = 64
    l1_alpha: float = 0.005
    l1_delta: float = 0.5

    def __post_init__(self) -> None:
        if not self.weights:
            raise ConfigError(f"weights is empty; name at least one of {', '.join(REWARDS)}.")
        for name, weight in self.weights.items():
            if name not in REWARDS:
                raise ConfigError(f"weights names {name!r}{nearest(name, REWARDS)}; rewards are {', '.join(REWARDS)}.")
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise ConfigError(f"weights.{name} is {weight!r}; it must be a number.")
        if not 0 < self.overlong_tokens <= self.max_tokens:
            raise ConfigError(
                f"overlong_tokens is {self.overlong_tokens}; it must be between 1 and max_tokens = {self.max_tokens}."
            )


def accuracy(answer: Answer) -> float:
    """1 if the reply alone, whole and finished, is right; else 0."""
    if answer.finish_reason != "stop" or answer.closed != int(answer.thinking):
        return 0.0
    return float(tasks.named(answer.problem.family).check(answer.problem, answer.reply))


def well_formed(answer: Answer) -> float:
    """1 if it is one thought, not empty, closed once (none where none was asked for), then a reply, then the end."""
    whole = answer.finish_reason == "stop" and answer.closed == int(answer.thinking) and answer.controls == 0
    thought = bool(answer.thought.strip()) == answer.thinking
    spells = CONTROL_TEXT.search(answer.thought) or CONTROL_TEXT.search(answer.reply)
    return float(whole and thought and bool(answer.reply.strip()) and not spells)


def language_share(text: str, language: str) -> float:
    """Share of the text's letters that are of this language; 1 for text without letters, 0 for no text at all."""
    if not text.strip():
        return 0.0
    letters = [ord(character) for character in text if character.isalpha()]
    ranges = LETTERS[language]
    return sum(any(a <= c <= b for a, b in ranges) for c in letters) / len(letters) if letters else 1.0


LETTERS = {
    "en": ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F)),  # Latin, with accents
    "zh": ((0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),  # ideographs
}


def kimi_lengths(lengths: Sequence[int], right: Sequence[bool]) -> list[float]:
    """Kimi k1.5 (arXiv:2501.12599), section 2.3.3: 0.5 - (len - min) / (max - min), at most 0 for wrong answers.

    Returns: 0 for all where all are equally long.
    """
    shortest, longest = min(lengths), max(lengths)
    if shortest == longest:
        return [0.0] * len(lengths)
    shares = [0.5 - (length - shortest) / (longest - shortest) for length in lengths]
    return [share if good else min(0.0, share) for share, good in zip(shares, right, strict=True)]


def soft_overlong(tokens: int, max_tokens: int, buffer_tokens: int) -> float:
    """DAPO (arXiv:2503.14476), eq. 13: 0 up to max - buffer, then falling to -1 at max, and -1 beyond."""
    return max(-1.0, min(0.0, (max_tokens - buffer_tokens - tokens) / buffer_tokens))


def l1_exact(tokens: int, budget_tokens: int, alpha: float) -> float:
    """L1 (arXiv:2503.04697), LCPO-Exact without its accuracy term: every token off costs alpha."""
    return -alpha * abs(budget_tokens - tokens)


def l1_max(tokens: int, budget_tokens: int, alpha: float, delta: float, right: bool) -> float:
    """L1, LCPO-Max: for a right answer delta at the budget, more below it, less above, within 0 and 1."""
    return min(1.0, max(0.0, alpha * (budget_tokens - tokens) + delta)) if right else 0.0


def _each(reward: Callable[[Answer], float]) -> Callable[[Group, RewardConfig], list[float]]:
    return lambda group, _: [reward(answer) for answer in group]


def _kimi(group: Group, _: RewardConfig) -> list[float]:
    return kimi_lengths([answer.tokens for answer in group], [accuracy(answer) > 0 for answer in group])


def _overlong(group: Group, config: RewardConfig) -> list[float]:
    return [soft_overlong(answer.tokens, config.max_tokens, config.overlong_tokens) for answer in group]


def _l1_exact(group: Group, config: RewardConfig) -> list[float]:
    return [
        0.0 if a.budget_tokens is None else l1_exact(a.thought_tokens, a.budget_tokens, config.l1_alpha) for a in group
    ]


def _l1_max(group: Group, config: RewardConfig) -> list[float]:
    numbers = config.l1_alpha, config.l1_delta
    return [
        0.0 if a.budget_tokens is None else l1_max(a.thought_tokens, a.budget_tokens, *numbers, accuracy(a) > 0)
        for a in group
    ]


REWARDS: dict[str, Callable[[Group, RewardConfig], list[float]]] = {
    "accuracy": _each(accuracy),
    "format": _each(well_formed),
    "language": _each(lambda answer: language_share(answer.reply, answer.problem.language)),
    "kimi": _kimi,
    "overlong": _overlong,
    "l1_exact": _l1_exact,
    "l1_max": _l1_max,
}


def score(group: Group, config: RewardConfig) -> tuple[list[float], dict[str, list[float]]]:
    """The weighted sum of each answer of a group, and its parts before weighing, by name."""
    parts: Mapping[str, list[float]] = {name: REWARDS[name](group, config) for name in config.weights}
    totals = [sum(weight * parts[name][i] for name, weight in config.weights.items()) for i in range(len(group))]
    return totals, dict(parts)
