"""The schedule at known points, and the nudge of the correction bias by hand."""

import pytest
import torch

from fathom.errors import ConfigError
from fathom.train.loss import LossConfig
from fathom.train.optim import OptimConfig, build, learning_rate, update_bias
from tests.model.tiny import CONFIG, model


def test_the_schedule_at_known_points() -> None:
    config = OptimConfig(lr=1.0, final_lr=0.1, warmup_steps=10, decay_share=0.4)
    assert learning_rate(config, 0, 100) == pytest.approx(0.1)
    assert learning_rate(config, 9, 100) == learning_rate(config, 30, 100) == learning_rate(config, 60, 100) == 1.0
    assert learning_rate(config, 80, 100) == pytest.approx(0.55)
    assert learning_rate(config, 100, 100) == pytest.approx(0.1)


def test_the_cosine_at_known_points() -> None:
    config = OptimConfig(schedule="cosine", lr=1.0, final_lr=0.2, warmup_steps=10)
    assert [learning_rate(config, step, 110) for step in (0, 9, 10)] == pytest.approx([0.1, 1.0, 1.0])
    assert learning_rate(config, 60, 110) == pytest.approx(0.6)  # half way
    assert learning_rate(config, 85, 110) == pytest.approx(0.2 + 0.8 * (1 - 0.5**0.5) / 2)
    assert learning_rate(config, 110, 110) == pytest.approx(0.2)


def test_the_published_schedule_of_deepseek_v3() -> None:
    """arXiv:2412.19437, section 4.2: 2.2e-4 up to 10T tokens, then half a cosine to 2.2e-5 over 4.3T; a step is 1B."""
    config = OptimConfig(schedule="cosine", lr=2.2e-4, final_lr=2.2e-5, warmup_steps=0)
    spots = {1000: 1.9473e-4, 2150: 1.2100e-4, 3000: 6.3396e-5, 4000: 2.4368e-5, 4300: 2.2e-5}
    assert {step: learning_rate(config, step, 4300) for step in spots} == pytest.approx(spots, rel=1e-4)
    warmup = OptimConfig(lr=2.2e-4, warmup_steps=2000)  # linear, from nought
    assert learning_rate(warmup, 999, 10_000) == pytest.approx(1.1e-4, rel=1e-4)
    assert (config.bias_speed, LossConfig().mtp, LossConfig().balance) == (1e-3, 0.3, 1e-4)  # of the first 10T tokens


def test_norms_do_not_decay() -> None:
    decayed, free = build(model(), OptimConfig()).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert all(p.dim() > 1 for p in decayed["params"])
    assert all(p.dim() == 1 for p in free["params"])


def test_bias_moves_by_its_speed_towards_balance() -> None:
    whole = model()
    gate = whole.model.layers[1].mlp.gate
    count = torch.tensor([8, 0, 4, 4, 4, 4, 4, 4])
    violation = update_bias(whole, {1: count}, speed=0.001)
    assert gate.e_score_correction_bias.tolist() == pytest.approx([-0.001, 0.001, 0, 0, 0, 0, 0, 0])
    assert violation == {1: pytest.approx(1.0)}
    assert gate.e_score_correction_bias.numel() == CONFIG.n_routed_experts


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="decay_share"):
        OptimConfig(decay_share=1.5)
