"""GRPO's arithmetic: against cases worked by hand, autograd, and the formulas written another way."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from fathom.errors import ConfigError
from fathom.posttrain.objective import ObjectiveConfig, advantages, k3, surrogate, token_weights, valued

PLAIN = ObjectiveConfig(clip=0.2, clip_high=0.3, kl=0.0)


def wide(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_advantages_by_hand() -> None:
    assert advantages([1.0, 0.0, 0.0, 0.0]) == pytest.approx([math.sqrt(3), *[-1 / math.sqrt(3)] * 3], abs=1e-12)
    assert advantages([2.0, 0.0]) == [1.0, -1.0]
    assert advantages([3.0, 0.0, 0.0], scale=False) == [2.0, -1.0, -1.0]


def test_advantages_against_statistics() -> None:
    rewards = [0.1, 1.2, 0.7, 0.7, -0.3]
    expected = [(r - statistics.fmean(rewards)) / statistics.pstdev(rewards) for r in rewards]
    assert advantages(rewards) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("reward", [0.0, 0.1, 1.1, 1e-9, 1e9])
@pytest.mark.parametrize("count", [2, 3, 7, 8])
def test_equal_rewards_have_no_advantage_whatever_the_rounding(reward: float, count: int) -> None:
    assert advantages([reward] * count) == [0.0] * count


def test_a_value_with_the_derivative_of_another_is_exact() -> None:
    generator = torch.Generator().manual_seed(1)
    value = torch.randn(1000, generator=generator, dtype=torch.float64) * 1e3
    x = torch.randn(1000, generator=generator, requires_grad=True)
    out = valued(3 * x, value)
    assert torch.equal(out, value)
    out.sum().backward()
    assert torch.equal(x.grad, torch.full((1000,), 3.0))
    assert not torch.equal(3 * x.double() + (value - 3 * x.double()), value), "what the plain way would lose"


def test_surrogate_by_hand_on_both_sides() -> None:
    """ratio, advantage -> gain and its slope by the ratio; bounds 0.8 and 1.3."""
    cases = [
        (1.0, 2.0, 2.0, 2.0),  # inside
        (1.25, 2.0, 2.5, 2.0),
        (1.5, 2.0, 2.6, 0.0),  # above, better: clipped
        (0.5, 2.0, 1.0, 2.0),  # below, better: not clipped, it shall come back
        (0.5, -2.0, -1.6, 0.0),  # below, worse: clipped
        (1.5, -2.0, -3.0, -2.0),  # above, worse: not clipped
    ]
    for ratio, advantage, gain, slope in cases:
        logprobs = wide(math.log(ratio) - 1.0).requires_grad_()
        terms = surrogate(logprobs, wide(-1.0), None, wide(advantage), wide(1.0), PLAIN)
        terms.loss.backward()
        assert terms.loss.item() == pytest.approx(-gain, abs=1e-12)
        assert logprobs.grad.item() == pytest.approx(-slope * ratio, abs=1e-12)  # d ratio / d logprob = ratio
        assert bool(terms.clipped) == (slope == 0.0)
        assert terms.ratios.item() == pytest.approx(ratio)


def test_k3_by_hand_and_its_gradient() -> None:
    logprobs = wide(-1.0, -2.0, -0.5).requires_grad_()
    reference = wide(-1.0, -1.0, -1.5)
    found = k3(logprobs, reference)
    expected = [0.0, math.e - 1 - 1, math.exp(-1) + 1 - 1]
    assert found.tolist() == pytest.approx(expected, abs=1e-12) and found.min() >= 0
    found.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([0.0, 1 - math.e, 1 - math.exp(-1)], abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: k3(x, reference), wide(-1.0, -2.0, -0.5).requires_grad_())


def test_k3_estimates_kl() -> None:
    """Its mean under the policy is the divergence: exactly, summed over a whole vocabulary."""
    policy, reference = wide(0.5, 0.3, 0.2).log(), wide(0.2, 0.2, 0.6).log()
    assert (policy.exp() * k3(policy, reference)).sum().item() == pytest.approx(
        (policy.exp() * (policy - reference)).sum().item(), abs=1e-12
    )


def test_the_gradient_agrees_with_central_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    draw = [torch.randn(40, generator=generator, dtype=torch.float64) / 4 for _ in range(4)]
    logprobs, old, reference, advantage = draw[0] - 2, draw[1] - 2, draw[2] - 2, draw[3]
    weight = torch.rand(40, generator=generator, dtype=torch.float64)
    config = ObjectiveConfig(clip=0.2, clip_high=0.28, kl=0.05)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return surrogate(x, old, reference, advantage, weight, config).loss

    x = logprobs.clone().requires_grad_()
    loss(x).backward()
    for i in range(40):
        step = torch.zeros(40, dtype=torch.float64)
        step[i] = 1e-6
        slope = (loss(logprobs + step) - loss(logprobs - step)) / 2e-6
        assert x.grad[i].item() == pytest.approx(slope.item(), abs=1e-6)


def test_at_ratio_one_the_gradient_is_that_of_reinforce() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()
    ids, advantage = torch.tensor([0, 3, 6, 2, 2]), wide(1.0, -1.0, 0.5, 0.0, 2.0)
    weight = wide(0.1, 0.1, 0.2, 0.3, 0.3)
    chosen = logits.log_softmax(-1)[torch.arange(5), ids]
    surrogate(chosen, chosen.detach(), None, advantage, weight, PLAIN).loss.backward()
    onehot = torch.nn.functional.one_hot(ids, 7)
    expected = -(weight * advantage)[:, None] * (onehot - logits.detach().softmax(-1))
    assert torch.allclose(logits.grad, expected, atol=1e-12)


def test_token_weights_by_hand() -> None:
    sequence, token = ObjectiveConfig(normalise="sequence"), ObjectiveConfig(normalise="token")
    assert token_weights([2, 8], [True, True], sequence) == [1 / 4, 1 / 16]
    assert token_weights([2, 8], [True, True], token) == [1 / 10, 1 / 10]
    assert token_weights([2, 8], [True, False], sequence) == [1 / 2, 0.0]
    assert token_weights([2, 8], [True, False], token) == [1 / 2, 0.0]


@pytest.mark.parametrize("changes", [{"clip": -0.1}, {"clip_high": -1.0}, {"kl": -1.0}, {"ref_every": -1}])
def test_refused(changes: dict) -> None:
    with pytest.raises(ConfigError, match="must be at least 0"):
        ObjectiveConfig(**changes)
