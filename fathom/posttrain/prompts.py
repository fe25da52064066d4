"""Problems to practise on, as prompts: which family, level, language and way of asking, by shares.

What is drawn is a pure function of (seed, step, round, place), so a run that stops needs to keep no position.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from fathom import tasks
from fathom.errors import ConfigError
from fathom.tasks import Problem
from fathom.tasks.task import LANGUAGES
from fathom.tokenizer import Tokenizer, encode_chat
from fathom.tokenizer.effort import REFLECT, control, with_control

#: Ways of asking beside the plain one, which thinks as the model pleases.
CONTROLS = ("budget", "reflect", "direct")


@dataclass(frozen=True)
class ProblemConfig:
    """What is practised, all of the train split.

    Fields: levels: family -> levels, drawn evenly. shares: family -> how often, relative to the others; 1 if not named.
            controls: shares of prompts that name a budget of thought, ask to reflect, or ask for a direct answer.
            budgets: those that are named [tokens of thought]. chinese: share of prompts in Chinese.
    """

    levels: dict[str, list[int]] = field(
        default_factory=lambda: {
            "arithmetic": [1, 2, 3], "chain": [1, 2], "sorting": [1, 2, 3], "countdown": [1, 2], "counting": [1, 2],
        }
    )  # fmt: skip
    shares: dict[str, float] = field(default_factory=dict)
    controls: dict[str, float] = field(default_factory=dict)
    budgets: tuple[int, ...] = (64, 128, 256)
    chinese: float = 0.0

    def __post_init__(self) -> None:
        if not self.levels:
            raise ConfigError(f"levels is empty; name families, of {', '.join(tasks.FAMILIES)}, and their levels.")
        for family, levels in self.levels.items():
            if family not in tasks.FAMILIES:
                raise ConfigError(f"levels names {family!r}; the families are {', '.join(tasks.FAMILIES)}.")
            if not isinstance(levels, list | tuple) or not levels:
                raise ConfigError(f"levels.{family} is {levels!r}; it must be a list of levels, such as [1, 2].")
            for level in levels:
                tasks.require_level(tasks.FAMILIES[family], level)
        for family in self.shares:
            if family not in self.levels:
                raise ConfigError(f"shares names {family!r}, which levels does not; add its levels.")
        for name in self.controls:
            if name not in CONTROLS:
                raise ConfigError(f"controls names {name!r}; it must be one of {', '.join(CONTROLS)}.")
        for what, shares in (("controls", self.controls), ("shares", self.shares)):
            if any(share < 0 for share in shares.values()):
                raise ConfigError(f"{what} holds a share below 0; shares are at least 0.")
        for what, share in (("controls", sum(self.controls.values())), ("chinese", self.chinese)):
            if not 0 <= share <= 1 + 1e-9:
                raise ConfigError(f"{what} is {share:g} in all; it must be between 0 and 1.")
        if min(self.budgets, default=0) < 1:
            raise ConfigError(f"budgets is {list(self.budgets)}; it must name numbers of tokens, each at least 1.")


@dataclass(frozen=True)
class Prompt:
    """One question to the model. control: one of CONTROLS, or "" for the plain way. token_ids: as the model reads it."""

    problem: Problem
    token_ids: tuple[int, ...]
    control: str = ""
    budget_tokens: int | None = None

    @property
    def thinking(self) -> bool:
        return self.control != "direct"


def draw_prompt(config: ProblemConfig, tokenizer: Tokenizer, name: str) -> Prompt:
    """The prompt of this name, "seed/step/round/place": equal names give equal prompts."""
    rng = Random(f"grpo/{name}")
    families = list(config.levels)
    family = rng.choices(families, [config.shares.get(each, 1.0) for each in families])[0]
    level = rng.choice(config.levels[family])
    language = LANGUAGES[1] if rng.random() < config.chinese else LANGUAGES[0]
    rest = max(0.0, 1.0 - sum(config.controls.values()))
    asked = rng.choices([*config.controls, ""], [*config.controls.values(), rest])[0]
    budget = rng.choice(config.budgets) if asked == "budget" else None
    worded = {} if language == LANGUAGES[0] else {"language": language}
    problem = tasks.draw(family, level, "train", rng, **worded)
    line = REFLECT if asked == "reflect" else control(budget_tokens=budget)
    messages = with_control([{"role": "user", "content": problem.prompt}], line)
    return Prompt(problem, tuple(encode_chat(tokenizer, messages, thinking=asked != "direct")), asked, budget)
