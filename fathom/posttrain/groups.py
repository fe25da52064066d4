"""A step's material: groups of answers with rewards and advantages, groups that teach nothing replaced if wanted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fathom.posttrain import rewards
from fathom.posttrain.objective import ObjectiveConfig, advantages
from fathom.posttrain.prompts import ProblemConfig, draw_prompt
from fathom.posttrain.rewards import Answer, RewardConfig
from fathom.posttrain.rollout import Actor, Trial, read_answer, seed_of
from fathom.tokenizer import Tokenizer


@dataclass(frozen=True)
class Group:
    """The answers to one prompt: what was sampled, what it earned, by how much it beats the group."""

    trials: list[Trial]
    answers: list[Answer]
    totals: list[float]
    parts: dict[str, list[float]]
    advantages: list[float]

    @property
    def flat(self) -> bool:
        """Whether all earned the same, so that there is nothing to learn."""
        return max(self.totals) == min(self.totals)


@dataclass(frozen=True)
class Collected:
    """What a step learns from. drawn: groups sampled in all, with those that were replaced."""

    groups: list[Group]
    drawn: int


def make_group(
    trials: list[Trial], tokenizer: Tokenizer, eos_token_ids: Sequence[int], config: RewardConfig, scale: bool
) -> Group:
    """Rewards and advantages of the answers to one prompt."""
    answers = [read_answer(trial, tokenizer, eos_token_ids) for trial in trials]
    totals, parts = rewards.score(answers, config)
    return Group(trials, answers, totals, parts, advantages(totals, scale))


@dataclass(frozen=True)
class Collector:
    """Draws problems, samples answers, judges them."""

    actor: Actor
    tokenizer: Tokenizer
    problems: ProblemConfig
    rewards: RewardConfig
    objective: ObjectiveConfig
    seed: int

    def collect(self, step: int, stop: Callable[[], bool] = lambda: False) -> Collected | None:
        """The groups of a step, a function of (weights, seed, step); None if `stop` said so meanwhile."""
        places = list(range(self.actor.config.groups))
        groups: dict[int, Group] = {}
        drawn = 0
        for attempt in range(self.actor.config.resample + 1):
            names = [f"{self.seed}/{step}/{attempt}/{place}" for place in places]
            prompts = [draw_prompt(self.problems, self.tokenizer, name) for name in names]
            sampled = self.actor.generate(prompts, [seed_of(name) for name in names], stop)
            if sampled is None:
                return None
            drawn += len(places)
            for place, trials in zip(places, sampled, strict=True):
                groups[place] = make_group(
                    trials, self.tokenizer, self.actor.eos_token_ids, self.rewards, self.objective.scale
                )
            places = [place for place in places if groups[place].flat]
            if not places:
                break
        return Collected([groups[place] for place in sorted(groups)], drawn)


def facts(collected: Collected) -> dict[str, Any]:
    """What the ledger says of a step's answers. Shares of outcomes add up to 1."""
    groups = collected.groups
    answers = [answer for group in groups for answer in group.answers]
    totals = [total for group in groups for total in group.totals]
    right = [rewards.accuracy(answer) for answer in answers]
    outcomes = Counter(_outcome(answer, good) for answer, good in zip(answers, right, strict=True))
    families: dict[str, list[int]] = defaultdict(list)
    for i, answer in enumerate(answers):
        families[answer.problem.family].append(i)
    asked = [answer for answer in answers if answer.budget_tokens]
    errors = [abs(a.thought_tokens - (a.budget_tokens or 0)) / (a.budget_tokens or 1) for a in asked]
    return {
        "reward": _mean(totals),
        "parts": {name: _mean([v for g in groups for v in g.parts[name]]) for name in groups[0].parts},
        "accuracy": _mean(right),
        "families": {
            family: {
                "n": len(at), "reward": _mean([totals[i] for i in at]), "accuracy": _mean([right[i] for i in at]),
                "tokens": _mean([answers[i].tokens for i in at]),
            }
            for family, at in sorted(families.items())
        },
        "tokens": _mean([answer.tokens for answer in answers]),
        "thought_tokens": _mean([answer.thought_tokens for answer in answers]),
        "budget_error": _mean(errors) if errors else None,
        "outcomes": {name: outcomes[name] / len(answers) for name in ("right", "wrong", "malformed", "truncated")},
        "truncated": outcomes["truncated"] / len(answers),
        "zero_variance": _mean([group.flat for group in groups]),
        "groups_drawn": collected.drawn,
    }  # fmt: skip


def _outcome(answer: Answer, right: float) -> str:
    if right:
        return "right"
    if answer.finish_reason == "length":
        return "truncated"
    return "wrong" if rewards.well_formed(answer) else "malformed"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
