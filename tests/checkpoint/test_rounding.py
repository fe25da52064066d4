"""Error-aware rounding harms outputs less than rounding to nearest, whatever the inputs are like."""

from __future__ import annotations

import pytest
import torch

from fathom.checkpoint.rounding import Inputs, best_scale, round_for_inputs
from fathom.ops.packing import pack_levels, round_to_nearest, unpack

GENERATOR = torch.Generator()


def correlated(tokens: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Inputs as a model's are: a few directions carry most, some columns are large."""
    draw = GENERATOR.manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=draw) * torch.logspace(0, -2, columns)[:, None]
    return torch.randn(tokens, columns, generator=draw) @ mixing * torch.rand(columns, generator=draw).exp()


def restored(levels: torch.Tensor, scale: torch.Tensor, columns: int) -> torch.Tensor:
    return unpack(pack_levels(levels, scale, kind="i4", columns=columns))


def harm(weight: torch.Tensor, rounded: torch.Tensor, x: torch.Tensor) -> float:
    return float(((rounded - weight) @ x.T).square().sum())


@pytest.mark.parametrize(("rows", "columns", "group"), [(24, 96, 32), (40, 320, 64), (7, 50, 64), (16, 300, 128)])
def test_outputs_are_nearer_than_with_rounding_to_nearest(rows: int, columns: int, group: int) -> None:
    x = correlated(800, columns)
    weight = torch.randn(rows, columns, generator=GENERATOR.manual_seed(1))
    levels, scale = round_for_inputs(weight, Inputs.of(x.T @ x, group), "i4", group)
    assert levels.dtype == torch.int8 and scale.dtype == torch.float16
    assert levels.shape == (rows, -(-columns // group) * group) and scale.shape == (rows, -(-columns // group))
    assert levels.min() >= -8 and levels.max() <= 7
    plain = restored(*round_to_nearest(weight, "i4", group), columns)
    fresh = correlated(800, columns)  # the same kind of inputs
    assert harm(weight, restored(levels, scale, columns), fresh) < 0.6 * harm(weight, plain, fresh)


def test_inputs_that_have_nothing_to_do_with_each_other_leave_each_weight_alone() -> None:
    weight = torch.randn(5, 64, generator=GENERATOR.manual_seed(2))
    levels, scale = round_for_inputs(weight, Inputs.of(torch.eye(64), 32), "i4", 32)
    wide = scale.float().repeat_interleave(32, 1)
    assert torch.equal(levels, (weight / wide).round().clamp(-8, 7).to(torch.int8))


def test_a_weight_that_levels_can_hold_is_kept() -> None:
    levels = torch.randint(-8, 8, (6, 64), generator=GENERATOR.manual_seed(3))
    levels[:, ::32] = -8
    weight = levels * 0.25
    x = correlated(200, 64)
    found, scale = round_for_inputs(weight, Inputs.of(x.T @ x, 32), "i4", 32)
    assert torch.equal(restored(found, scale, 64), weight)


def test_zeros_dead_inputs_and_padding_stay_zero() -> None:
    x = correlated(100, 40)
    x[:, 5] = 0.0
    weight = torch.randn(4, 40, generator=GENERATOR.manual_seed(4))
    weight[2] = 0.0
    levels, scale = round_for_inputs(weight, Inputs.of(x.T @ x, 32), "i4", 32)
    assert not levels[:, 40:].any() and not levels[2].any()
    assert torch.isfinite(scale).all()


def test_moments_of_few_tokens_are_no_obstacle() -> None:
    x = correlated(3, 64)
    weight = torch.randn(4, 64, generator=GENERATOR.manual_seed(5))
    levels, scale = round_for_inputs(weight, Inputs.of(x.T @ x, 32), "i4", 32)
    assert torch.isfinite(restored(levels, scale, 64)).all()


def test_the_best_scale_beats_the_one_that_holds_the_largest_weight() -> None:
    groups = torch.randn(50, 3, 32, generator=GENERATOR.manual_seed(6))
    energy = torch.rand(3, 32, generator=GENERATOR)
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))[..., 0] / -8

    def error(scale: torch.Tensor) -> torch.Tensor:
        wide = scale.float()[..., None]
        return (((groups / wide).round().clamp(-8, 7) * wide - groups).square() * energy).sum(-1)

    assert (error(best_scale(groups, energy, "i4")) <= error(largest.half()) + 1e-6).all()
    eight = best_scale(groups, energy, "i8")
    assert (eight > 0).all() and (eight.float() * 127 >= groups.abs().amax(-1) * 0.6).all()
