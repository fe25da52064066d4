"""Problems to practise on, as prompts: which family, level, language and way of asking, by shares.

What is drawn is a pure function of (seed, step, round, place), so a run that stops needs to keep no position.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from fathom.config.effort import REFLECT, control, with_control
from fathom.errors import ConfigError
from fathom.tasks import Problem
from fathom.tasks.mixture import Mixture
from fathom.tokenizer import Tokenizer, encode_chat

#: Ways of asking beside the plain one, which thinks as the model pleases.
CONTROLS = ("budget", "reflect", "direct")


@dataclass(frozen=True)
class ProblemConfig(Mixture):
    """What is practised, all of the train split.

    Fields: those of Mixture; controls: shares of prompts that name a budget of thought, ask to reflect, or ask for a
            direct answer; the rest is asked plainly. budgets: those that are named [tokens of thought].
    """

    controls: dict[str, float] = field(default_factory=dict)
    budgets: tuple[int, ...] = (64, 128, 256)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, share in self.controls.items():
            if name not in CONTROLS:
                raise ConfigError(f"controls names {name!r}; it must be one of {', '.join(CONTROLS)}.")
            if share < 0:
                raise ConfigError(f"controls.{name} is {share:g}; it must be at least 0.")
        if sum(self.controls.values()) > 1 + 1e-9:
            raise ConfigError(f"controls sum to {sum(self.controls.values()):g}; they must be at most 1.")
        if min(self.budgets, default=0) < 1:
            raise ConfigError(f"budgets is {list(self.budgets)}; it must name numbers of tokens, each at least 1.")


@dataclass(frozen=True)
class Prompt:
    """One question to the model. control: one of CONTROLS, or "" for the plain way. token_ids: what the model reads."""

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
    rest = max(0.0, 1.0 - sum(config.controls.values()))
    asked = rng.choices([*config.controls, ""], [*config.controls.values(), rest])[0]
    budget = rng.choice(config.budgets) if asked == "budget" else None
    problem = config.draw("train", rng)
    line = REFLECT if asked == "reflect" else control(budget_tokens=budget)
    messages = with_control([{"role": "user", "content": problem.prompt}], line)
    return Prompt(problem, tuple(encode_chat(tokenizer, messages, thinking=asked != "direct")), asked, budget)
