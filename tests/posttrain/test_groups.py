"""Groups: rewards and advantages per prompt, groups without a difference replaced, what is written down of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fathom.posttrain import rewards
from fathom.posttrain.groups import Collector, facts
from fathom.posttrain.objective import ObjectiveConfig
from fathom.posttrain.rewards import RewardConfig
from fathom.posttrain.rollout import Actor, RolloutConfig
from fathom.posttrain.scoring import Twin
from tests.posttrain.grpo_tiny import PROBLEMS, tiny, tokenizer

EOS = (tokenizer().eos_id,)


def collector(weights: dict[str, float], resample: int = 0) -> Collector:
    rollout = RolloutConfig(groups=4, samples=3, max_tokens=6, at_once=8, resample=resample)
    actor = Actor(Twin(tiny().config, tiny().state_dict(), 1), rollout, EOS)
    worth = RewardConfig(weights=weights, max_tokens=6, overlong_tokens=6)
    return Collector(actor, tokenizer(), PROBLEMS, worth, ObjectiveConfig(), seed=5)


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward by chance, different within a group."""
    monkeypatch.setitem(rewards.REWARDS, "odd", lambda group, _: [float(len(a.reply + a.thought) % 2) for a in group])


def test_a_step_is_a_function_of_its_number(odd: None) -> None:
    one = collector({"odd": 1.0}).collect(3)
    assert one == collector({"odd": 1.0}).collect(3) != collector({"odd": 1.0}).collect(4)
    assert one.drawn == len(one.groups) == 4


def test_advantages_follow_totals(odd: None) -> None:
    for group in collector({"odd": 2.0}).collect(0).groups:
        assert group.totals == [2.0 * value for value in group.parts["odd"]]
        assert group.flat == (group.advantages == [0.0] * 3)
        best = max(range(3), key=group.totals.__getitem__)
        assert group.flat or group.advantages[best] > 0


def test_flat_groups_are_replaced_up_to_a_limit(odd: None) -> None:
    plain, tried = collector({"odd": 1.0}).collect(1), collector({"odd": 1.0}, resample=6).collect(1)
    flat = [group.flat for group in plain.groups]
    assert any(flat) and not all(flat), "or this shows nothing"
    assert not any(group.flat for group in tried.groups) and tried.drawn > 4
    for before, after in zip(plain.groups, tried.groups, strict=True):
        assert before.flat or before == after  # what had something to teach stays


def test_hopeless_groups_are_kept_and_counted() -> None:
    found = collector({"accuracy": 1.0}, resample=2).collect(0)
    assert found.drawn == 12 and all(group.flat for group in found.groups)
    assert facts(found)["zero_variance"] == 1.0 and facts(found)["groups_drawn"] == 12


def test_facts_add_up() -> None:
    found = collector({"accuracy": 1.0, "language": 0.5}).collect(0)
    said = facts(found)
    answers = [answer for group in found.groups for answer in group.answers]
    assert sum(said["outcomes"].values()) == pytest.approx(1.0)
    assert said["reward"] == pytest.approx(said["parts"]["accuracy"] + 0.5 * said["parts"]["language"])
    assert said["tokens"] == pytest.approx(sum(a.tokens for a in answers) / 12)
    assert sum(family["n"] for family in said["families"].values()) == 12
    assert said["truncated"] == sum(a.finish_reason == "length" for a in answers) / 12


def test_budget_error_is_relative() -> None:
    found = collector({"accuracy": 1.0}).collect(0)
    asked = [
        replace(a, budget_tokens=10, thought_tokens=t)
        for a, t in zip(found.groups[0].answers, (10, 5, 20), strict=True)
    ]
    only = replace(found, groups=[replace(found.groups[0], answers=asked)])
    assert facts(only)["budget_error"] == pytest.approx((0 + 0.5 + 1.0) / 3)
    free = [replace(answer, budget_tokens=None) for answer in asked]
    assert facts(replace(found, groups=[replace(found.groups[0], answers=free)]))["budget_error"] is None


def test_stopping_gives_nothing() -> None:
    assert collector({"accuracy": 1.0}).collect(0, lambda: True) is None
