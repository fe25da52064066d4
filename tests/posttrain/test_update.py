"""The inner epoch: ratios of exactly 1 at first, gradients by another way, what has none, what is left out."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from fathom.errors import ConfigError
from fathom.model import Batch
from fathom.posttrain.groups import Group
from fathom.posttrain.objective import ObjectiveConfig
from fathom.posttrain.prompts import draw_prompt
from fathom.posttrain.rollout import Actor, RolloutConfig, seed_of
from fathom.posttrain.scoring import Twin
from fathom.posttrain.update import Learner, Measured, OptimiserConfig, engine_gap, lessons, mini_batches
from tests.posttrain.grpo_tiny import PROBLEMS, tiny, tokenizer

CONFIG = OptimiserConfig(lr=1e-2, mtp_lr=1e-2, clip_norm=1e9, micro_tokens=60)
ROLLOUT = RolloutConfig(groups=2, samples=3, max_tokens=10, at_once=8)


def sampled():
    """Two groups with invented rewards, and their scores."""
    actor = Actor(Twin(tiny().config, tiny().state_dict(), 1), ROLLOUT, (tokenizer().eos_id,))
    prompts = [draw_prompt(PROBLEMS, tokenizer(), f"{i}") for i in range(2)]
    groups = [
        Group(trials, [], [1.0, 0.0, 2.0], {}, advantages)
        for trials, advantages in zip(
            actor.generate(prompts, [seed_of("a"), seed_of("b")]), ([1.0, -1.5, 0.5], [0.0, 0.0, 0.0]), strict=True
        )
    ]
    return groups, actor.twin.score([trial for group in groups for trial in group.trials])


def one_batch(objective: ObjectiveConfig, config: OptimiserConfig = CONFIG):
    """(learner, measured) after one mini-batch of everything."""
    groups, old = sampled()
    learner, measured = Learner(deepcopy(tiny()), config), Measured()
    batch = [lesson for some in lessons(groups, old, old if objective.kl else None, objective) for lesson in some]
    learner.mini_batch(batch, old, 1.0, objective, 0, measured)
    return learner, measured


def test_the_first_ratios_are_exactly_one_and_the_gap_zero() -> None:
    groups, old = sampled()
    assert engine_gap([trial for group in groups for trial in group.trials], old) == 0.0
    _, measured = one_batch(ObjectiveConfig(kl=0.1))
    assert measured.ratio_low == measured.ratio_high == 1.0
    assert measured.kl == 0.0 and measured.clipped == 0
    assert 0.0 < measured.torch_gap < 1e-3


@pytest.mark.parametrize("normalise", ["sequence", "token"])
def test_the_gradient_is_the_policy_gradient(normalise: str) -> None:
    """At ratio 1: the sum over answers of weight * A * d log p, one answer at a time, from the plain forward."""
    objective = ObjectiveConfig(kl=0.0, normalise=normalise, replay=False)
    learner, _ = one_batch(objective)
    groups, _ = sampled()
    plain = deepcopy(tiny())
    trials = [trial for group in groups for trial in group.trials]
    total = sum(len(trial.token_ids) for trial in trials)
    for trial, advantage in zip(trials, [1.0, -1.5, 0.5, 0, 0, 0], strict=True):
        ids = torch.tensor([*trial.prompt_ids, *trial.token_ids])
        logits = plain.logits(plain(ids, Batch.packed([len(ids)])))[len(trial.prompt_ids) - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(1, torch.tensor(trial.token_ids)[:, None])
        weight = 1 / total if normalise == "token" else 1 / (len(trials) * len(trial.token_ids))
        (-weight * advantage * logprobs.sum()).backward()
    for (name, got), expected in zip(learner.model.named_parameters(), plain.parameters(), strict=True):
        if not name.startswith("model.layers.3."):
            assert torch.allclose(got.grad, expected.grad, atol=1e-6), name


def test_replay_gives_nearly_the_same_gradient() -> None:
    with_replay, _ = one_batch(ObjectiveConfig(kl=0.0))
    without, _ = one_batch(ObjectiveConfig(kl=0.0, replay=False))
    for one, other in zip(with_replay.trunk, without.trunk, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5)


def test_the_module_learns_and_the_trunk_does_not_notice() -> None:
    objective = ObjectiveConfig(kl=0.0)
    both, measured = one_batch(objective)
    trunk_only, _ = one_batch(objective, OptimiserConfig(lr=1e-2, mtp_lr=0.0, clip_norm=1e9, micro_tokens=60))
    assert all(torch.equal(a, b) for a, b in zip(both.trunk, trunk_only.trunk, strict=True))
    assert measured.mtp > 0 and any(not torch.equal(a, b) for a, b in zip(both.ahead, trunk_only.ahead, strict=True))


def test_without_kl_equal_answers_are_not_computed() -> None:
    _, with_kl = one_batch(ObjectiveConfig(kl=0.1))
    _, without = one_batch(ObjectiveConfig(kl=0.0))
    groups, _ = sampled()
    assert without.tokens == sum(len(trial.token_ids) for trial in groups[0].trials)
    assert with_kl.tokens == sum(len(trial.token_ids) for group in groups for trial in group.trials)


def test_masked_answers_teach_nothing_and_a_batch_of_them_moves_nothing() -> None:
    groups, old = sampled()
    objective = ObjectiveConfig(kl=0.1, overlong="mask")
    found = lessons(groups, old, old, objective)
    flat = [lesson for some in found for lesson in some]
    assert [lesson.counted for lesson in flat] == [lesson.trial.finish_reason != "length" for lesson in flat]
    cut = [(lesson, scored) for lesson, scored in zip(flat, old, strict=True) if not lesson.counted]
    assert cut, "some of them are cut off"
    learner, measured = Learner(deepcopy(tiny()), CONFIG), Measured()
    learner.mini_batch([lesson for lesson, _ in cut], [scored for _, scored in cut], 1.0, objective, 0, measured)
    assert measured.tokens == 0
    assert all(torch.equal(a, b) for a, b in zip(learner.model.parameters(), tiny().parameters(), strict=True))


def test_the_clip_bounds_each_gradient_by_itself() -> None:
    bound = OptimiserConfig(clip_norm=1e-3, micro_tokens=60)
    learner, measured = one_batch(ObjectiveConfig(kl=0.0), bound)
    for part in (learner.trunk, learner.ahead):
        norm = torch.cat([p.grad.flatten() for p in part if p.grad is not None]).norm()
        assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    assert measured.grad_norms[0] > 1e-3


def test_mini_batches_deal_out_whole_groups() -> None:
    groups = [[f"{g}{i}" for i in range(2)] for g in "abcde"]
    assert mini_batches(groups, 2) == [["a0", "a1", "c0", "c1", "e0", "e1"], ["b0", "b1", "d0", "d1"]]
    assert len(mini_batches(groups, 9)) == 5


def test_warmup_rises_to_lr() -> None:
    config = OptimiserConfig(lr=1.0, warmup_steps=4)
    assert [config.at(1.0, step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    with pytest.raises(ConfigError, match="mini_batches is 0"):
        OptimiserConfig(mini_batches=0)


def test_the_rate_falls_evenly_to_nothing_at_the_last_step() -> None:
    config = OptimiserConfig(lr=1.0, warmup_steps=2, last_step=6)
    assert [config.at(1.0, step) for step in range(8)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert OptimiserConfig(last_step=4).at(2.0, 1) == 1.5


def test_activations_in_bfloat16_give_nearly_the_gradient_and_the_same_values() -> None:
    objective = ObjectiveConfig(kl=0.0)
    groups, old = sampled()
    learner, measured = Learner(deepcopy(tiny()), CONFIG), Measured()
    learner.model.compute_dtype = torch.bfloat16
    batch = [lesson for some in lessons(groups, old, None, objective) for lesson in some]
    learner.mini_batch(batch, old, 1.0, objective, 0, measured)
    assert measured.ratio_low == measured.ratio_high == 1.0 and measured.torch_gap > 1e-3
    exact, _ = one_batch(objective)
    one, other = (torch.cat([p.grad.flatten() for p in each.trunk]) for each in (learner, exact))
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.99
