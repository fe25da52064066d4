"""The schedule at known points, and the nudge of the correction bias by hand."""

import pytest
import torch

from fathom.errors import ConfigError
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
